//! Competitors take turns within one run, so that drift (clock, temperature, neighbours) affects all of them.

use super::stats::Summary;

/// One competitor: a name, and a measurement that returns one number.
pub struct Competitor<'a> {
    /// The name in the record.
    pub name: String,
    /// Measures once, in the unit of the benchmark.
    pub measure: Box<dyn FnMut() -> f64 + 'a>,
}

impl<'a> Competitor<'a> {
    /// A competitor of this name.
    pub fn new(name: impl Into<String>, measure: impl FnMut() -> f64 + 'a) -> Competitor<'a> {
        Competitor {
            name: name.into(),
            measure: Box::new(measure),
        }
    }
}

/// Measures every competitor `rounds` times (at least once) after one unrecorded round. Each round begins with another
/// competitor. The summaries are in the order of the competitors.
pub fn run(rounds: usize, competitors: &mut [Competitor<'_>]) -> Vec<Summary> {
    let rounds = rounds.max(1);
    let count = competitors.len();
    let mut values = vec![Vec::with_capacity(rounds); count];
    for competitor in &mut *competitors {
        (competitor.measure)();
    }
    for at in turns(rounds, count) {
        values[at].push((competitors[at].measure)());
    }
    values.iter().map(|values| Summary::of(values)).collect()
}

/// The order of turns over `rounds` rounds of `count` competitors. Each round begins with another competitor.
pub fn turns(rounds: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..rounds).flat_map(move |round| (0..count).map(move |turn| (round + turn) % count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn order_rotates_and_the_first_round_is_not_recorded() {
        let order = RefCell::new(String::new());
        let mut competitors = ["a", "b", "c"].map(|name| {
            let mut calls = 0.0;
            let order = &order;
            Competitor::new(name, move || {
                order.borrow_mut().push_str(name);
                calls += 1.0;
                calls
            })
        });
        let summaries = run(3, &mut competitors);
        drop(competitors);
        assert_eq!(order.into_inner(), "abcabcbcacab");
        assert!(
            summaries
                .iter()
                .all(|s| (s.count, s.min, s.median, s.max) == (3, 2.0, 3.0, 4.0))
        );
    }
}
