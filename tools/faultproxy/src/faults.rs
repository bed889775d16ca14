//! Which faults there are, how often each strikes, and how they are written.

use std::str::FromStr;
use std::time::Duration;

/// What goes wrong with one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It comes so much later.
    Late(Duration),
    /// Its body stops after so many bytes, and the connection stays open.
    Hang(u64),
    /// The connection is reset after so many bytes of its body.
    Reset(u64),
    /// 503 `SlowDown`, in S3's form.
    SlowDown,
    /// Its body is one byte shorter than it says.
    Short,
    /// Its body is as long as it should be, of a range one byte further on.
    WrongRange,
    /// One bit of its body is flipped.
    WrongBytes,
    /// A ranged GET is answered with the whole object.
    Whole,
    /// Its length is not told, and its chunks end without the last one.
    Truncated,
}

/// A fault, and in how many of 1,000 answers to GETs it strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chance {
    /// What goes wrong.
    pub fault: Fault,
    /// In how many of 1,000 answers.
    pub per_mille: u32,
}

/// What a proxy does to answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Every answer comes so much later.
    pub latency: Duration,
    /// Bytes per second of every body; `None` for as fast as it comes.
    pub bandwidth: Option<u64>,
    /// What strikes now and then. The first that does counts.
    pub chances: Vec<Chance>,
}

impl Faults {
    /// What goes wrong with the next answer to a GET, if anything does.
    pub(crate) fn draw(&self, random: &mut fastrand::Rng) -> Option<Fault> {
        let mut strikes = self.chances.iter();
        let struck = strikes.find(|chance| random.u32(0..1000) < chance.per_mille);
        struck.map(|chance| chance.fault)
    }
}

/// The forms of a [`Chance`].
pub const FORMS: &str = "late=TIME, hang=BYTES, reset=BYTES, slowdown, short, wrong-range, wrong-bytes, whole or truncated, \
                         each with @PERCENT (all without it)";

impl FromStr for Chance {
    type Err = String;

    fn from_str(text: &str) -> Result<Chance, String> {
        let wrong = || format!("{text:?} is none of {FORMS}");
        let (what, percent) = match text.split_once('@') {
            Some((what, percent)) => (what, percent.trim_end_matches('%').parse::<f64>()),
            None => (text, Ok(100.0)),
        };
        let percent = percent.map_err(|_| wrong())?;
        if !(0.0..=100.0).contains(&percent) {
            return Err(format!(
                "{text:?}: a part of all answers is between 0% and 100%"
            ));
        }
        let (name, value) = match what.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (what, None),
        };
        let bytes = || value.and_then(|value| value.parse().ok()).ok_or_else(wrong);
        let fault = match (name, value) {
            ("late", Some(time)) => {
                Fault::Late(humantime::parse_duration(time).map_err(|_| wrong())?)
            }
            ("hang", Some(_)) => Fault::Hang(bytes()?),
            ("reset", Some(_)) => Fault::Reset(bytes()?),
            ("slowdown", None) => Fault::SlowDown,
            ("short", None) => Fault::Short,
            ("wrong-range", None) => Fault::WrongRange,
            ("wrong-bytes", None) => Fault::WrongBytes,
            ("whole", None) => Fault::Whole,
            ("truncated", None) => Fault::Truncated,
            _ => return Err(wrong()),
        };
        Ok(Chance {
            fault,
            per_mille: (percent * 10.0).round() as u32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_written_as_they_are_read() {
        let parse = |text: &str| text.parse::<Chance>();
        let chance = |fault, per_mille| Ok(Chance { fault, per_mille });
        let late = Fault::Late(Duration::from_secs(2));
        assert_eq!(parse("late=2s@5%"), chance(late, 50));
        assert_eq!(parse("hang=0"), chance(Fault::Hang(0), 1000));
        assert_eq!(parse("reset=4096@0.1"), chance(Fault::Reset(4096), 1));
        assert_eq!(parse("whole@50%"), chance(Fault::Whole, 500));
        for wrong in [
            "",
            "late",
            "late=x",
            "hang=-1",
            "short=3",
            "short@101%",
            "x@5%",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn one_seed_gives_one_order_of_faults() {
        let faults = Faults {
            chances: vec![
                "slowdown@10%".parse().unwrap(),
                "short@10%".parse().unwrap(),
            ],
            ..Faults::default()
        };
        let draw = |seed| {
            let mut random = fastrand::Rng::with_seed(seed);
            (0..1000)
                .map(|_| faults.draw(&mut random))
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let struck = draw(1).iter().flatten().count();
        assert!((150..250).contains(&struck), "{struck}");
    }
}
