//! The cases.

use crate::subject::{Subject, Verdict};

/// One run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    /// 256 MiB: 10,000 stalled, 100 slow, 4 fast.
    Large,
    /// 96 MiB: 2,000 stalled, 100 slow, 4 fast.
    Small,
    /// 1 GiB: as many stalled as the plan and the descriptors allow, 100 slow, 4 fast.
    Huge,
    /// 256 MiB: 10,000 with default receive buffers stall first, then 4 fast ones come: healthy and degraded, the server
    /// on one core and on all.
    StalledFirst,
    /// One network with 500 fast connections beside ten with one each: healthy and degraded, the server on one core and
    /// on all.
    Networks,
    /// 50,000 attempts against 1,000 places.
    Attempts,
}

impl Case {
    pub(super) const ALL: [Case; 6] = [
        Case::Large,
        Case::Small,
        Case::Huge,
        Case::StalledFirst,
        Case::Networks,
        Case::Attempts,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Case::Large => "256",
            Case::Small => "96",
            Case::Huge => "1024",
            Case::StalledFirst => "stalled-first",
            Case::Networks => "networks",
            Case::Attempts => "attempts",
        }
    }
}

impl Subject<'_> {
    /// Runs one case.
    pub(super) fn run(&self, case: Case) -> anyhow::Result<Vec<Verdict>> {
        match case {
            Case::Large => self.crowd(case.name(), 256, 10_000, &[]),
            Case::Small => self.crowd(case.name(), 96, 2_000, &["--max-connections", "2400"]),
            Case::Huge => {
                let stalled = self.most_stalled("1GiB")?;
                self.crowd(case.name(), 1024, stalled, &[])
            }
            Case::StalledFirst => self.stalled_first(),
            Case::Networks => self.networks(),
            Case::Attempts => self.attempts(case.name()),
        }
    }
}
