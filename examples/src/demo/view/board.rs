//! The state behind the view. News come in; nothing is drawn here.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::draw::Tone;
use crate::demo::checker::percentile;
use crate::demo::news::{News, Request};

/// Everything the view shows.
#[derive(Debug)]
pub struct Board {
    pub(super) begun: Instant,
    pub(super) length: Duration,
    pub(super) ended: Option<Duration>,
    pub(super) ground: String,
    pub(super) step: Option<String>,
    pub(super) requests: usize,
    pub(super) issued: usize,
    pub(super) denied: usize,
    pub(super) renewals: usize,
    pub(super) running: BTreeMap<String, String>,
    pub(super) attempts: Vec<Attempt>,
    pub(super) recent: VecDeque<Entry>,
    pub(super) pair: PairView,
    pending: BTreeMap<String, (Request, Instant)>,
    reasons: BTreeMap<String, String>,
    took: VecDeque<Duration>,
}

/// What the two services have to show.
#[derive(Debug, Clone, Default)]
pub struct PairView {
    /// Handshakes completed.
    pub handshakes: u64,
    /// Handshakes failed.
    pub failed: u64,
    /// The median handshake.
    pub p50: Option<Duration>,
    /// 99 of 100 handshakes were at most this long.
    pub p99: Option<Duration>,
    /// Whom the client sees at the other end, and with which certificate, counted from 1.
    pub client_sees: Option<(String, usize)>,
    /// Whom the server sees at the other end.
    pub server_sees: Option<(String, usize)>,
    /// The last thing that went wrong.
    pub failure: Option<String>,
}

#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) what: String,
    pub(super) outcome: Option<Outcome>,
}

#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) refused: bool,
    pub(super) by: String,
    pub(super) why: String,
}

/// Something that happened.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) at: Duration,
    pub(super) tone: Tone,
    pub(super) text: String,
}

/// A request without an answer for so long that it must be held.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) pod: String,
    pub(super) request: String,
    pub(super) since: Duration,
    pub(super) why: String,
}

impl Board {
    /// An empty one, for a run of this length that begins now.
    #[must_use]
    pub fn new(length: Duration) -> Self {
        Self {
            begun: Instant::now(),
            length,
            ended: None,
            ground: String::new(),
            step: None,
            requests: 0,
            issued: 0,
            denied: 0,
            renewals: 0,
            running: BTreeMap::new(),
            attempts: Vec::new(),
            recent: VecDeque::new(),
            pair: PairView::default(),
            pending: BTreeMap::new(),
            reasons: BTreeMap::new(),
            took: VecDeque::new(),
        }
    }

    /// How long it has been running.
    pub(super) fn age(&self) -> Duration {
        self.ended.unwrap_or_else(|| self.begun.elapsed())
    }

    /// The clock stops.
    pub(super) fn finish(&mut self) {
        self.ended = Some(self.begun.elapsed());
        self.step = None;
    }

    /// What the run says about who keeps strangers from asking.
    #[must_use]
    pub fn guard_note(&self) -> &'static str {
        if self.ground.ends_with("guard on") {
            "This API server runs without NodeRestriction: the admission guard of deploy/ stood in for it."
        } else {
            "The admission guard was off here; in your cluster it also stops strangers who name the right node: deploy/."
        }
    }

    /// From created to issued, the median of the last few hundred.
    #[must_use]
    pub fn answer_time(&self) -> Option<Duration> {
        percentile(&self.took.iter().copied().collect::<Vec<_>>(), 50)
    }

    /// What waits longer than any answer takes.
    pub(super) fn held(&self) -> Vec<Held> {
        let long = self.pending.values().filter(|(_, since)| since.elapsed() >= SURELY_HELD);
        let held = |(request, since): &(Request, Instant)| Held {
            pod: request.pod.clone(),
            request: request.name.clone(),
            since: since.elapsed(),
            why: self
                .reasons
                .get(&request.pod)
                .cloned()
                .unwrap_or_else(|| "the signer has not answered yet".to_owned()),
        };
        long.map(held).collect()
    }

    /// Takes note of one thing.
    pub(super) fn hear(&mut self, news: News) {
        match news {
            News::Step(step) => self.step = Some(step),
            News::Playing => self.step = None,
            News::Ground(ground) => self.ground = ground,
            News::Running { pod, node } => {
                self.note(Tone::Plain, format!("{pod} runs on {node}: key, chain and roots are in its volume"));
                self.running.insert(pod, node);
            }
            News::Requested(request) => {
                self.requests = self.requests.saturating_add(1);
                self.pending.insert(request.uid.clone(), (request, Instant::now()));
            }
            News::Issued { request, renewal, took } => self.issued(&request, renewal, took),
            News::Denied { request, reason, .. } => {
                self.denied = self.denied.saturating_add(1);
                self.pending.remove(&request.uid);
                self.note(Tone::Bad, format!("{} for {} denied: {reason}", request.name, request.pod));
            }
            News::Held { pod, why } => {
                self.reasons.insert(pod, why);
            }
            News::Attempt { number, what } => {
                self.attempts.resize_with(self.attempts.len().max(number.saturating_add(1)), || Attempt {
                    what: String::new(),
                    outcome: None,
                });
                if let Some(attempt) = self.attempts.get_mut(number) {
                    attempt.what = what;
                }
            }
            News::Outcome { number, refused, by, why } => {
                if let Some(attempt) = self.attempts.get_mut(number) {
                    attempt.outcome = Some(Outcome { refused, by, why });
                }
            }
            News::Trouble(what) => self.note(Tone::Bad, what),
        }
    }

    fn issued(&mut self, request: &Request, renewal: bool, took: Duration) {
        self.issued = self.issued.saturating_add(1);
        self.renewals = self.renewals.saturating_add(usize::from(renewal));
        self.pending.remove(&request.uid);
        self.took.push_back(took);
        if self.took.len() > REMEMBERED {
            self.took.pop_front();
        }
        let what = if renewal { "renewed" } else { "issued" };
        let text = format!("{} for {} {what} in {}", request.name, request.pod, super::draw::short(took));
        self.note(if renewal { Tone::Plain } else { Tone::Good }, text);
    }

    fn note(&mut self, tone: Tone, text: String) {
        self.recent.push_back(Entry { at: self.begun.elapsed(), tone, text });
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
    }
}

/// Answers take milliseconds; a second without one is a hold.
const SURELY_HELD: Duration = Duration::from_secs(1);
/// Enough for a steady median, few enough to sort at each drawing.
const REMEMBERED: usize = 500;
/// As many as a tall terminal shows.
const RECENT: usize = 12;
