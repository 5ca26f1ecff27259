//! The ACL token: read for each question, and looked at while one waits, so that a new one takes
//! effect without a restart. Knows nothing of what is asked.

use std::time::Duration;

use http::HeaderValue;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

use super::fault::Fault;
use crate::config::Secret;

/// Between two looks at the token's file while a question waits: one for the whole registry,
/// however many wait.
const LOOK: Duration = Duration::from_secs(2);

/// Where the token comes from.
#[derive(Debug)]
pub(super) struct Token {
    secret: Option<Secret>,
    looked: Mutex<Option<Look>>,
}

/// What a question was asked with.
pub(super) type Bearer = Option<HeaderValue>;

#[derive(Debug)]
struct Look {
    at: Instant,
    /// `None` where it could not be read.
    found: Bearer,
    /// It could not be read the time before either: its file is not just being replaced.
    is_missing: bool,
}

impl Token {
    pub(super) fn new(secret: Option<Secret>) -> Self {
        Self {
            secret,
            looked: Mutex::default(),
        }
    }

    /// The token as it is now.
    pub(super) async fn read(&self) -> Result<Bearer, Fault> {
        match &self.secret {
            None => Ok(None),
            Some(secret) => read(secret).await.map(Some),
        }
    }

    /// Waits until the token is another one, or cannot be read any more.
    pub(super) async fn changes(&self, from: &Bearer) {
        // Variables of a process do not change.
        let Some(secret @ Secret::File(_)) = &self.secret else {
            return std::future::pending().await;
        };
        loop {
            sleep(LOOK).await;
            let mut looked = self.looked.lock().await;
            let before = looked.take();
            let look = match before {
                Some(look) if look.at.elapsed() < LOOK => look,
                before => {
                    let found = read(secret).await.ok();
                    Look {
                        at: Instant::now(),
                        is_missing: found.is_none()
                            && before.is_some_and(|before| before.found.is_none()),
                        found,
                    }
                }
            };
            let changed = look.is_missing || (look.found.is_some() && look.found != *from);
            *looked = Some(look);
            if changed {
                return;
            }
        }
    }
}

async fn read(secret: &Secret) -> Result<HeaderValue, Fault> {
    let text = secret.read_aside().await.map_err(Fault::Token)?;
    if text.is_empty() {
        // The file is being written. Asked without a token, an agent may answer with an empty set.
        return Err(Fault::Token("the token is empty".to_owned()));
    }
    let mut value = HeaderValue::from_str(&text)
        .map_err(|_| Fault::Token("the token is not one line of plain text".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::{path::Path, sync::Arc};

    fn of_file(path: &Path) -> Arc<Token> {
        Arc::new(Token::new(Some(Secret::File(path.to_owned()))))
    }

    async fn text(token: &Token) -> Bearer {
        token.read().await.ok().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_token_is_noticed_and_one_that_is_being_written_is_not_taken_for_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "one\n").unwrap();
        let token = of_file(&path);
        let one = text(&token).await;
        let changed = {
            let token = token.clone();
            tokio::spawn(async move { token.changes(&one).await })
        };
        tokio::time::sleep(LOOK * 3).await;
        std::fs::write(&path, "").unwrap();
        tokio::time::sleep(LOOK).await;
        std::fs::write(&path, "one").unwrap();
        tokio::time::sleep(LOOK * 3).await;
        assert!(!changed.is_finished());
        std::fs::write(&path, "two").unwrap();
        tokio::time::timeout(LOOK * 2, changed)
            .await
            .expect("noticed at the next look")
            .unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_is_gone_for_good_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "one\n").unwrap();
        let token = of_file(&path);
        let one = text(&token).await;
        std::fs::remove_file(&path).unwrap();
        token.changes(&one).await;
        assert!(matches!(token.read().await, Err(Fault::Token(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn where_there_is_no_file_nothing_changes() {
        for secret in [None, Some(Secret::Env("X".to_owned()))] {
            let token = Token::new(secret);
            let hour = Duration::from_secs(3600);
            let changes = tokio::time::timeout(hour, token.changes(&None));
            assert!(changes.await.is_err());
        }
    }
}
