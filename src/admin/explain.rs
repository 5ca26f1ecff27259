//! `GET /api/explain`: what becomes of a request, without making it.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json,
    extract::{Query, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;

use super::view::Shown;
use crate::proxy::explain::{Invalid, Question, explain_once_read};

/// How long what was never read is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) async fn explain(
    State(context): Shown,
    Query(asked): Query<Vec<(String, String)>>,
) -> Response {
    let question = match read(&asked) {
        Ok(question) => question,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    let Ok(permit) = Arc::clone(&context.explaining).try_acquire_owned() else {
        let said = "as many requests are explained as may be at once\n";
        return (StatusCode::SERVICE_UNAVAILABLE, said).into_response();
    };
    let worker = context.view.workers.first().map(Arc::clone);
    let Some(worker) = worker else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    // Of a service with ten thousand endpoints the chances take a while.
    let runtime = tokio::runtime::Handle::current();
    let explained = tokio::task::spawn_blocking(move || {
        let explanation = runtime.block_on(explain_once_read(&worker, &question, PATIENCE));
        drop(permit);
        explanation
    });
    match explained.await {
        Ok(explanation) => Json(explanation).into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// `method`, `url`, `client`, and `header` any number of times.
fn read(asked: &[(String, String)]) -> Result<Question, String> {
    let (mut method, mut url, mut headers) = ("GET", None, Vec::new());
    let mut client = IpAddr::V4(Ipv4Addr::LOCALHOST);
    for (key, value) in asked {
        match key.as_str() {
            "method" => method = value,
            "url" => url = Some(value),
            "header" => headers.push(value.as_str()),
            "client" => match value.parse() {
                Ok(address) => client = address,
                Err(_) => return Err(format!("client={value}: it is no IP address")),
            },
            _ => return Err(format!("{key}: it may be method, url, header or client")),
        }
    }
    let url = url.ok_or("url is missing: ?url=http://shop.example.com/cart, or a path")?;
    let question = Question::new(method, url, headers, client);
    question.map_err(|error: Invalid| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{admin::view, control::access::Access};

    #[tokio::test]
    async fn beyond_those_that_may_be_at_once_no_request_is_explained() {
        let gate = Access::new("127.0.0.1:9900".parse().unwrap(), None);
        let context = Arc::new(view::testing::context(gate));
        let all = Arc::clone(&context.explaining);
        let count = all.available_permits() as u32;
        let _all = all.try_acquire_many_owned(count).unwrap();
        let asked = Query(vec![("url".to_owned(), "/".to_owned())]);
        let answer = explain(State(context), asked).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        let body = axum::body::to_bytes(answer.into_body(), 1_000)
            .await
            .unwrap();
        assert!(body.starts_with(b"as many requests are explained"));
    }
}
