//! The last attempts, and the generations that can be put into service again, in memory.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::Value;

use crate::reload::attempt::{Attempt, Refusal, Restorable};
use crate::settings::source::Content;

/// Attempts that are remembered.
pub(crate) const KEPT: usize = 32;

#[derive(Debug, Clone)]
pub struct History {
    /// Reports of an earlier process, the oldest first.
    earlier: Vec<Value>,
    attempts: VecDeque<Arc<Attempt>>,
    /// The last failure, until a reload takes effect.
    pub error: Option<Arc<Attempt>>,
    pub last: Option<Arc<Attempt>>,
    pub last_published: Option<Arc<Attempt>>,
    /// Every generation of this process that can be put into service again.
    generations: VecDeque<(u64, Restorable)>,
    /// The digest of the file when it was last looked at.
    pub file_digest: String,
}

impl History {
    /// `file_digest` is that of the file, which is not the first generation's after a start with `--resume`.
    pub fn new(first: Restorable, file_digest: String) -> Self {
        Self {
            earlier: Vec::new(),
            attempts: VecDeque::new(),
            error: None,
            last: None,
            last_published: None,
            file_digest,
            generations: VecDeque::from([(1, first)]),
        }
    }

    /// Remembers the reports of an earlier process, the oldest first.
    pub fn add_earlier(&mut self, reports: Vec<Value>) {
        self.earlier = reports;
    }

    /// Remembers an attempt; a dry run leaves no trace.
    pub fn add(&mut self, attempt: &Arc<Attempt>) {
        if attempt.is_dry_run {
            return;
        }
        if attempt.is_failure() {
            self.error = Some(attempt.clone());
        }
        if let Some(restorable) = &attempt.restorable {
            self.error = None;
            self.last_published = Some(attempt.clone());
            self.generations.push_back((attempt.generation, restorable.clone()));
            if self.generations.len() > KEPT {
                self.generations.pop_front();
            }
        }
        self.last = Some(attempt.clone());
        self.attempts.push_back(attempt.clone());
        if self.attempts.len() > KEPT {
            self.attempts.pop_front();
        }
    }

    pub fn generation(&self, number: u64) -> Option<Restorable> {
        self.generations.iter().find(|(known, _)| *known == number).map(|(_, found)| found.clone())
    }

    /// The youngest content from before the one in service, so that two rollbacks in a row go back twice.
    pub fn before(&self, current: u64) -> Option<Restorable> {
        let origin = self.generation(current)?.origin;
        self.generations.iter().rev().find(|(known, _)| *known < origin).map(|(_, found)| found.clone())
    }

    /// The configuration to roll back to: that of a generation, or else the one before the current one.
    pub fn restorable(&self, number: Option<u64>, current: u64) -> Result<Restorable, Refusal> {
        match number {
            Some(number) => self.generation(number).ok_or(Refusal::NoSuchGeneration(number)),
            None => self.before(current).ok_or(Refusal::NoEarlierGeneration),
        }
    }

    /// The content of the youngest generation, which is the one in service.
    pub fn last_good(&self) -> Option<Arc<Content>> {
        self.generations.back().map(|(_, restorable)| restorable.content.clone())
    }

    /// The youngest first.
    pub fn reports(&self) -> Vec<Value> {
        let own = self.attempts.iter().rev().map(|attempt| attempt.report());
        own.chain(self.earlier.iter().rev().cloned()).take(KEPT).collect()
    }
}
