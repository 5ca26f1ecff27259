//! What must hold of a resolver's messages, whatever they say.

use hickory_proto::{op::Message, rr::RecordType};

use super::answer::Answer;

/// A message to each question.
pub(crate) fn messages(bytes: &[u8]) {
    let Ok(message) = Message::from_vec(bytes) else {
        return;
    };
    for wanted in [RecordType::SRV, RecordType::A, RecordType::AAAA] {
        let Ok(answer) = Answer::read(message.clone(), wanted) else {
            continue;
        };
        let targets: Vec<_> = answer.srv().map(|srv| srv.target.clone()).collect();
        for target in &targets {
            if let Some(addresses) = answer.additional(target) {
                assert!(!addresses.ips.is_empty());
            }
        }
        assert!(answer.ips().len() <= bytes.len());
    }
}
