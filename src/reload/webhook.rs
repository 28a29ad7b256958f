//! Tells a webhook of reloads, on a thread of its own: a slow or dead receiver delays nothing.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tracing::warn;

use crate::config::Notify;
use crate::reload::attempt::{Attempt, Verdict};

/// Attempts to deliver one message, and the pause between them.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// The most characters that Discord takes.
const MAX_SENTENCE: usize = 2000;

/// Messages that may wait.
const QUEUE: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Webhook(OnceLock<Option<SyncSender<Message>>>);

#[derive(Debug)]
struct Message {
    attempt: Arc<Attempt>,
    notify: Notify,
}

impl Webhook {
    /// Sends the report of an attempt, if its outcome is of interest. Never waits.
    pub(crate) fn tell(&self, attempt: &Arc<Attempt>, notify: Option<&Notify>) {
        let Some(notify) = notify else { return };
        // A caller whose condition did not hold knows it already.
        let is_of_interest =
            if attempt.is_refused() { attempt.is_failure() && notify.on_failure } else { notify.on_success };
        if !is_of_interest {
            return;
        }
        let queue = self.0.get_or_init(start);
        let message = Message { attempt: attempt.clone(), notify: notify.clone() };
        if queue.as_ref().is_none_or(|queue| queue.try_send(message).is_err()) {
            warn!(attempt = attempt.id, "the webhook is not told: too many messages wait already");
        }
    }
}

fn start() -> Option<SyncSender<Message>> {
    let (queue, messages) = sync_channel::<Message>(QUEUE);
    let deliver = move || {
        for message in messages {
            message.deliver();
        }
    };
    thread::Builder::new().name("webhook".to_owned()).spawn(deliver).ok().map(|_| queue)
}

impl Message {
    fn deliver(&self) {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_global(Some(self.notify.timeout))
            // A redirect could take the report to somebody else, and so could a proxy that only the
            // environment names. No body of an answer is read.
            .max_redirects(0)
            .proxy(None)
            .build()
            .into();
        let body = self.body().to_string();
        for attempt in 1..=TRIES {
            let request = agent.post(self.notify.url.expose()).header("Content-Type", "application/json");
            match request.send(&body).map(|response| response.status()) {
                Ok(status) if status.is_redirection() => {
                    let status = status.as_u16();
                    warn!(attempt = self.attempt.id, status, "the webhook redirects, which is not followed");
                    return;
                }
                Ok(_) => return,
                // The error may quote the address, which may be a secret.
                Err(ureq::Error::StatusCode(status)) => {
                    warn!(attempt = self.attempt.id, status, "the webhook refused a message");
                    // Another try does not help against our own mistake.
                    if (400..500).contains(&status) {
                        return;
                    }
                }
                Err(_) => warn!(attempt = self.attempt.id, "the webhook cannot be reached"),
            }
            if attempt < TRIES {
                thread::sleep(PAUSE * attempt);
            }
        }
    }

    /// The report, with a sentence for people in the members that Slack (`text`) and Discord (`content`)
    /// show. Neither minds the other members.
    fn body(&self) -> Value {
        let sentence: String = self.sentence().chars().take(MAX_SENTENCE).collect();
        let mut body = self.attempt.report();
        if let Value::Object(members) = &mut body {
            members.insert("content".to_owned(), sentence.as_str().into());
            members.insert("text".to_owned(), sentence.into());
        }
        body
    }

    fn sentence(&self) -> String {
        let system = rustix::system::uname();
        let host = system.nodename().to_string_lossy();
        let generation = self.attempt.generation;
        match &self.attempt.verdict {
            Verdict::Refused(refusal) => format!(
                "yatagarasu on {host}: configuration reload failed: {}; generation {generation} stays in service",
                refusal.lines().join("; ")
            ),
            Verdict::Published | Verdict::DryRunOk => {
                format!("yatagarasu on {host}: configuration reloaded; generation {generation} is in service")
            }
        }
    }
}
