//! What this machine offers to a run and what it lacks: each finding with its state, what it means
//! for a run, and the remedy. Looking changes nothing for good, unless stale segments are to be
//! removed.

mod gpu;
mod limits;
mod processor;
mod surroundings;

use crate::shm::{stale_segments, sweep_stale};
use serde::Serialize;
use std::fmt;
use std::fs;
use std::path::Path;

const MIB: u64 = 1 << 20;

/// How good a finding is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Works, and could be better.
    Note,
    /// Not there; something cannot be used.
    Missing,
}

/// One thing looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub topic: &'static str,
    /// How good it is.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What that means for a run.
    pub effect: String,
    /// What to do about it; none if there is nothing to do.
    pub remedy: Option<String>,
}

/// All findings.
#[derive(Clone, Debug, Serialize)]
pub struct Examination {
    /// In order of topics.
    pub findings: Vec<Finding>,
    /// Segments of dead runs that were removed.
    pub cleaned: Vec<String>,
}

impl Finding {
    fn ok(topic: &'static str, found: impl Into<String>, effect: impl Into<String>) -> Finding {
        Finding {
            topic,
            state: State::Ok,
            found: found.into(),
            effect: effect.into(),
            remedy: None,
        }
    }

    /// As it should be if there is no remedy, and could be better if there is one.
    fn of(
        topic: &'static str,
        found: impl Into<String>,
        effect: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        let (finding, remedy) = (Finding::ok(topic, found, effect), remedy.into());
        match remedy.is_empty() {
            true => finding,
            false => finding.with(State::Note, remedy),
        }
    }

    fn with(mut self, state: State, remedy: impl Into<String>) -> Finding {
        self.state = state;
        self.remedy = Some(remedy.into());
        self
    }
}

/// Looks at everything; removes stale segments if `clean`.
pub fn examine(clean: bool) -> Examination {
    let cleaned = if clean { sweep_stale() } else { Vec::new() };
    let mut findings = Vec::from(processor::findings());
    findings.extend(limits::findings());
    findings.extend(surroundings::findings());
    findings.extend(gpu::findings());
    findings.push(stale());
    Examination { findings, cleaned }
}

/// A small file of the kernel's, trimmed.
fn read(path: impl AsRef<Path>) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn stale() -> Finding {
    let stale = stale_segments();
    let (found, effect, remedy) = match &stale[..] {
        [] => ("none".to_owned(), "no dead run holds memory", ""),
        some => (
            format!("{}: {}", some.len(), some.join(" ")),
            "dead runs hold shared memory; the next run removes them",
            "ringmaster doctor --clean",
        ),
    };
    Finding::of("stale segments", found, effect, remedy)
}

impl fmt::Display for Examination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.cleaned {
            writeln!(f, "removed {name}")?;
        }
        let topics = self.findings.iter().map(|finding| finding.topic.len());
        let width = topics.max().unwrap_or(0);
        for (index, finding) in self.findings.iter().enumerate() {
            let line = if index > 0 { "\n" } else { "" };
            let state = match finding.state {
                State::Ok => "ok",
                State::Note => "note",
                State::Missing => "missing",
            };
            let (topic, found, effect) = (finding.topic, &finding.found, &finding.effect);
            write!(f, "{line}{state:<8} {topic:<width$}  {found}; {effect}")?;
            let remedy = finding.remedy.as_deref().unwrap_or("");
            if !remedy.is_empty() {
                write!(f, "\n{:9}{:width$}  -> {remedy}", "", "")?;
            }
        }
        Ok(())
    }
}
