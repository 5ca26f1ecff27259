//! The pages for people of another proxy: a file before and one after, which do the same.

use http::StatusCode;

use super::page::{Page, all};
use crate::support::{
    backend::{Backend, by},
    eventually,
    proxy::Proxy,
};

#[test]
fn each_page_for_people_of_another_proxy_has_a_file_before_and_one_after() {
    let mut pages = all();
    pages.retain(|page| page.name.starts_with("docs/migrate-from-"));
    assert!(pages.len() >= 7, "{} pages", pages.len());
    for page in pages {
        let blocks = page.blocks();
        let [before, after, ..] = &blocks[..] else {
            panic!("{}: {} files", page.name, blocks.len());
        };
        assert!(
            before.info != "toml" && after.info == "toml",
            "{}",
            page.name
        );
        // Told by theirs, whose names people search for.
        let told = page
            .prose()
            .filter(|(_, line)| line.starts_with("| "))
            .count();
        assert!(told > 15, "{}: {told} rows", page.name);
    }
}

/// The routes and services of a page's file after, without its listeners, whose ports and keys a test
/// does not have.
fn routes_after(page: &str) -> String {
    let blocks = Page::read(page).blocks();
    let (_, routes) = blocks[1].text.split_once("[[route]]").unwrap();
    format!("[[route]]{routes}")
}

/// A fallback is for a service without endpoints, and those of the file are always there.
#[tokio::test]
async fn what_was_a_backup_of_nginx_is_called_once_the_other_servers_are_gone() {
    let servers = ["10.0.0.7:8080", "10.0.0.8:8080", "10.0.0.9:8080"];
    let one = Backend::start("one").await;
    let two = Backend::start("two").await;
    let backup = Backend::start("backup").await;
    let mut file = routes_after("docs/migrate-from-nginx.md");
    for (server, backend) in servers.into_iter().zip([&one, &two, &backup]) {
        assert!(file.contains(server), "{server}: {file}");
        file = file.replace(server, &backend.address().to_string());
    }
    let proxy = Proxy::start(&file).await;
    let ask = async || {
        let request = proxy.http.get(proxy.url("/cart/7"));
        let answer = request.header("host", "shop.example.com").send().await;
        let answer = answer.unwrap();
        match answer.status() {
            StatusCode::OK => by(&answer),
            status => status.to_string(),
        }
    };

    let is_primary = |id: &String| ["one", "two"].contains(&id.as_str());
    eventually("a primary server answers", ask, is_primary).await;
    assert_eq!(backup.requests(), 0);
    one.kill().await;
    two.kill().await;
    eventually("the backup answers", ask, |id| id == "backup").await;
    proxy.drain().await;
}
