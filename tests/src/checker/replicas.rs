//! The replicas as processes: how each life ended, whether it panicked, and what memory it took.

use serde_json::Value;

use crate::kept::KILLED;

/// What is known of a replica when all is over.
#[derive(Debug, Default, Clone)]
pub struct Remains {
    /// Its name.
    pub name: String,
    /// Its audit log, over all its lives.
    pub log: Vec<Entry>,
    /// Where it panicked, in any of its lives, as it told on standard error.
    pub panics: Vec<String>,
    /// The most memory that any of its lives has used, in KiB.
    pub peak: u64,
    /// The last that it said.
    pub words: String,
}

/// What is in an audit log, and what befell its writer in between, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// A line.
    Line(Value),
    /// From here on lines may be lost or come too late: there is no room, nobody reads, or the process stands still.
    Deaf,
    /// From here on nothing is in the way any more.
    Hears,
    /// The process has ended, with this status.
    End(i32),
}

impl Remains {
    /// The lines of its audit log.
    pub fn lines(&self) -> impl Iterator<Item = &Value> {
        self.log.iter().filter_map(|entry| match entry {
            Entry::Line(line) => Some(line),
            Entry::Deaf | Entry::Hears | Entry::End(_) => None,
        })
    }

    fn ends(&self) -> Vec<i32> {
        let ends = self.log.iter().filter_map(|entry| match entry {
            Entry::End(status) => Some(*status),
            Entry::Line(_) | Entry::Deaf | Entry::Hears => None,
        });
        ends.collect()
    }
}

pub(super) fn check(replicas: &[Remains], memory: u64, wrong: &mut Vec<String>) {
    for replica in replicas {
        let mut says = |what: String| wrong.push(format!("{} {what}", replica.name));
        for panic in &replica.panics {
            says(format!("panicked: {panic}"));
        }
        if replica.peak > memory {
            says(format!("used {} KiB of memory: it would have been killed", replica.peak));
        }
        match replica.ends().as_slice() {
            [] => says("never ended".to_owned()),
            [killed @ .., last] => {
                for status in killed.iter().filter(|status| **status != KILLED) {
                    says(format!("ended by itself with status {status}"));
                }
                if *last != 0 {
                    says(format!("ended with status {last}: {}", replica.words));
                }
            }
        }
    }
}
