//! The status page: its files, which are the same for everyone. They hold nothing of what the proxy
//! does; that is asked for by their scripts.

use std::{fmt::Write as _, sync::LazyLock};

use aws_lc_rs::digest::{SHA256, digest};
use axum::{
    extract::Path,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};

/// A file, with what tells it from other versions of it.
struct File {
    name: &'static str,
    kind: &'static str,
    text: &'static str,
    tag: LazyLock<String>,
}

/// Names a file of this folder.
macro_rules! file {
    ($name:literal, $kind:expr) => {
        File {
            name: $name,
            kind: $kind,
            text: include_str!($name),
            tag: LazyLock::new(|| tag(include_str!($name))),
        }
    };
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// What a browser may do with the page: ask this server, and no other. Nothing of it is in a frame, and
/// no script but its own runs.
const POLICY: &str = "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

static INDEX: File = file!("index.html", "text/html; charset=utf-8");

static FILES: [File; 14] = [
    file!("page.css", "text/css; charset=utf-8"),
    file!("icon.svg", "image/svg+xml"),
    file!("access.js", SCRIPT),
    file!("chart.js", SCRIPT),
    file!("detail.js", SCRIPT),
    file!("dom.js", SCRIPT),
    file!("explain.js", SCRIPT),
    file!("format.js", SCRIPT),
    file!("journal.js", SCRIPT),
    file!("main.js", SCRIPT),
    file!("model.js", SCRIPT),
    file!("panels.js", SCRIPT),
    file!("services.js", SCRIPT),
    file!("stream.js", SCRIPT),
];

/// `GET /ui/`, and `GET /` of a browser.
pub(super) async fn index(headers: HeaderMap) -> Response {
    answer(&INDEX, &headers)
}

/// `GET /ui/{name}`
pub(super) async fn file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    match FILES.iter().find(|file| file.name == name) {
        Some(file) => answer(file, &headers),
        None => (StatusCode::NOT_FOUND, "the page has no such file\n").into_response(),
    }
}

fn answer(file: &File, headers: &HeaderMap) -> Response {
    let tag = &**file.tag;
    let shared = [
        (header::ETAG, tag),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    let known = headers.get(header::IF_NONE_MATCH);
    if known.is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, shared).into_response();
    }
    let kind = [(header::CONTENT_TYPE, file.kind)];
    (shared, kind, file.text).into_response()
}

/// The first half of its digest.
fn tag(text: &str) -> String {
    let digest = digest(&SHA256, text.as_bytes());
    let mut tag = String::from("\"");
    for byte in &digest.as_ref()[..16] {
        let _ = write!(tag, "{byte:02x}");
    }
    tag.push('"');
    tag
}
