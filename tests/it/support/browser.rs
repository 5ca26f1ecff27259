//! A real browser with one page open, which a script of Node drives: a line of JSON says what to do, and
//! a line says what came of it.

use std::{process::Stdio, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::{eventually, server};

/// A busy machine takes its time to start one.
const PATIENCE: Duration = Duration::from_secs(60);

/// As many run at once: one is a dozen processes, on a machine that runs other tests meanwhile.
static ROOM: Semaphore = Semaphore::const_new(2);

/// Gone when it is dropped, as it ends with its script.
pub(crate) struct Browser {
    _script: Child,
    stdin: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
    _place: SemaphorePermit<'static>,
}

impl Browser {
    /// One of a person who wants this colour scheme, with a window so wide. `None` where this machine
    /// has no browser.
    pub(crate) async fn start(scheme: &str, width: u32) -> Option<Self> {
        let folder = server::binary("chromium")?;
        let place = ROOM.acquire().await.unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/page/drive.mjs");
        let mut script = Command::new("node")
            .args([script, folder.to_str().unwrap(), scheme])
            .arg(width.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stdin = script.stdin.take().unwrap();
        let said = BufReader::new(script.stdout.take().unwrap()).lines();
        let mut browser = Self {
            _script: script,
            stdin,
            said,
            _place: place,
        };
        browser.said().await;
        Some(browser)
    }

    async fn said(&mut self) -> Value {
        let line = timeout(PATIENCE, self.said.next_line()).await;
        let line = line.expect("the browser is slow").unwrap();
        let said: Value = serde_json::from_str(&line.expect("the browser is gone")).unwrap();
        assert!(said["error"].is_null(), "{}", said["error"]);
        said["value"].clone()
    }

    async fn tell(&mut self, command: Value) -> Value {
        let line = format!("{command}\n");
        self.stdin.write_all(line.as_bytes()).await.unwrap();
        self.said().await
    }

    /// Opens a page, and returns once its document is there.
    pub(crate) async fn open(&mut self, url: &str) {
        self.tell(json!({ "do": "open", "url": url })).await;
    }

    /// What an expression of JavaScript comes to in the page.
    pub(crate) async fn value(&mut self, expression: &str) -> Value {
        self.tell(json!({ "do": "value", "expression": expression }))
            .await
    }

    /// Waits until an expression is true.
    pub(crate) async fn until(&mut self, expression: &str) {
        // Where it does not come to that, the page says more than the expression.
        let shown = format!("({expression}) || document.body.innerText");
        let value = async || self.value(&shown).await;
        eventually(expression, value, |value| *value == true).await;
    }

    /// Waits until a text is in the element with this selector.
    pub(crate) async fn until_text(&mut self, selector: &str, text: &str) {
        let (selector, text) = (json!(selector), json!(text));
        let expression =
            format!("!!document.querySelector({selector})?.innerText.includes({text})");
        self.until(&expression).await;
    }

    /// Clicks on the first element with this selector, once it is there.
    pub(crate) async fn click(&mut self, selector: &str) {
        self.tell(json!({ "do": "click", "selector": selector }))
            .await;
    }

    /// Writes into an input in place of what is there.
    pub(crate) async fn fill(&mut self, selector: &str, text: &str) {
        self.tell(json!({ "do": "fill", "selector": selector, "text": text }))
            .await;
    }

    /// Has another width from now on.
    pub(crate) async fn resize(&mut self, width: u32) {
        self.tell(json!({ "do": "resize", "width": width })).await;
    }

    /// Asserts that axe finds nothing that keeps a person from using the page as it is now, and that the
    /// page has neither said an error nor asked another server.
    pub(crate) async fn assert_sound(&mut self) {
        let violations = self.tell(json!({ "do": "axe" })).await;
        assert_eq!(violations, json!([]), "axe");
        let faults = self.tell(json!({ "do": "faults" })).await;
        assert_eq!(faults, json!([]), "errors and requests to others");
        let text = self.value("document.body.innerText").await;
        let text = text.as_str().unwrap();
        for slip in ["[object ", "undefined", "NaN"] {
            assert!(!text.contains(slip), "{slip}: {text}");
        }
    }
}
