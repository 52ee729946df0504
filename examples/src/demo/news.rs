//! What happens, told by many and shown by one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, Sender, channel};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A step of the preparations has begun.
    Step(String),
    /// The preparations are done.
    Playing,
    /// Where all of this runs, in a few words.
    Ground(String),
    /// A pod runs: its files are there.
    Running {
        /// Namespace and name.
        pod: String,
        /// Its node.
        node: String,
    },
    /// The API server took a request.
    Requested(Request),
    /// The signer issued a certificate.
    Issued {
        /// Which request.
        request: Request,
        /// Whether the pod had one before.
        renewal: bool,
        /// From created to issued, as a watcher sees it.
        took: Duration,
    },
    /// The signer denied a request.
    Denied {
        /// Which request.
        request: Request,
        /// The condition's reason.
        reason: String,
        /// The condition's message.
        message: String,
    },
    /// What the signer says about a request it holds.
    Held {
        /// Namespace and name.
        pod: String,
        /// Why.
        why: String,
    },
    /// The impostor tries something.
    Attempt {
        /// Which of its attempts.
        number: usize,
        /// In words.
        what: String,
    },
    /// What came of it.
    Outcome {
        /// Which of its attempts.
        number: usize,
        /// Whether it was refused, as it should be.
        refused: bool,
        /// Who refused, in words.
        by: String,
        /// Why, in that component's words.
        why: String,
    },
    /// Something does not work; it is tried again.
    Trouble(String),
}

/// A certificate request, as far as a person wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its UID.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// Namespace and name of the pod it is for.
    pub pod: String,
    /// The node it names.
    pub node: String,
}

/// Tells news. A viewer that cannot keep up loses some; they are counted, and nobody waits for a screen.
#[derive(Debug, Clone)]
pub struct Reporter {
    news: Sender<News>,
    lost: Arc<AtomicU64>,
}

impl Reporter {
    /// Both ends.
    #[must_use]
    pub fn new() -> (Self, Receiver<News>) {
        // A burst of one request for each of 100 pods, five times over.
        let (news, heard) = channel(512);
        (Self { news, lost: Arc::default() }, heard)
    }

    /// Tells one thing.
    pub fn tell(&self, news: News) {
        if self.news.try_send(news).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A step of the preparations.
    pub fn step(&self, what: impl Into<String>) {
        self.tell(News::Step(what.into()));
    }

    /// How many were not heard.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_viewer_costs_nobody_but_is_counted() {
        let (reporter, mut heard) = Reporter::new();
        for number in 0..600 {
            reporter.step(format!("{number}"));
        }
        assert_eq!(reporter.lost(), 88);
        assert_eq!(heard.try_recv(), Ok(News::Step("0".to_owned())));
    }
}
