//! The parameters of the sweep: the knobs of a sending socket, the loads under which they are measured, and the choice
//! of combinations for the second pass.

use std::collections::HashMap;

/// How bytes get from the share files to the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Way {
    /// `sendfile` from each share in turn; no byte enters user space, and none is verified.
    Sendfile,
    /// Read, verify every leaf's checksum, `sendmsg`.
    Copy,
}

impl Way {
    pub(super) const ALL: [Way; 2] = [Way::Sendfile, Way::Copy];

    pub(super) fn name(self) -> &'static str {
        match self {
            Way::Sendfile => "sendfile",
            Way::Copy => "copy",
        }
    }
}

/// The parameters that an operator does not choose: the way, the object, the number of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Load {
    pub(super) way: Way,
    /// Bytes of a block of the object.
    pub(super) block_bytes: u32,
    pub(super) connections: usize,
}

/// The knobs to choose. In bytes; `None` leaves a knob to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Knobs {
    /// `SO_SNDBUF` as it is set; the kernel doubles it. `None`: autotuned.
    pub(super) send_buffer: Option<u32>,
    /// `TCP_NOTSENT_LOWAT`.
    pub(super) unsent: Option<u32>,
    /// The most bytes that one turn sends to one connection.
    pub(super) turn: u32,
    /// `TCP_MAXSEG` of the listener. `None`: loopback's own 65,483.
    pub(super) segment: Option<u32>,
}

/// The axes of the grid.
pub(super) struct Axes {
    pub(super) send_buffers: Vec<Option<u32>>,
    pub(super) unsent: Vec<Option<u32>>,
    pub(super) turns: Vec<u32>,
    pub(super) segments: Vec<Option<u32>>,
}

impl Axes {
    /// Every combination, except those that must equal another: a turn or a limit on unsent bytes that the buffer keeps
    /// from being reached. The smallest turn is always included.
    pub(super) fn knobs(&self) -> Vec<Knobs> {
        let mut all = Vec::new();
        for &segment in &self.segments {
            for &send_buffer in &self.send_buffers {
                let most = send_buffer.map_or(u32::MAX, |bytes| 2 * bytes);
                for &unsent in &self.unsent {
                    if unsent.is_some_and(|unsent| unsent >= most) {
                        continue;
                    }
                    for (place, &turn) in self.turns.iter().enumerate() {
                        if place == 0 || turn <= most {
                            all.push(Knobs {
                                send_buffer,
                                unsent,
                                turn,
                                segment,
                            });
                        }
                    }
                }
            }
        }
        all
    }
}

/// The results of one measurement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) gb_s: f64,
    /// Seconds that the sender's core was busy, per GB.
    pub(super) core_per_gb: f64,
    /// The same with the receivers' core.
    pub(super) both_per_gb: f64,
    /// CPU seconds of the sending thread, per GB.
    pub(super) thread_per_gb: f64,
    /// Turns per GB: how often the sender woke for a connection.
    pub(super) turns_per_gb: f64,
    /// How busy the receivers' core was, 0 to 1.
    pub(super) client_busy: f64,
}

/// The cost of each knob relative to the best one under the same load: by CPU time of the sender's core, and also by
/// speed where it is slower than nine tenths of the fastest. 1 is the best.
pub(super) fn costs(samples: &HashMap<Knobs, Sample>) -> HashMap<Knobs, f64> {
    let least = |value: fn(&Sample) -> f64| samples.values().map(value).fold(f64::MAX, f64::min);
    let cheapest = least(|sample| sample.core_per_gb);
    let fastest = -least(|sample| -sample.gb_s);
    samples
        .iter()
        .map(|(&knobs, sample)| {
            let slow = (0.9 * fastest / sample.gb_s).max(1.0);
            (knobs, sample.core_per_gb / cheapest * slow)
        })
        .collect()
}

/// The geometric mean of each knob's cost over all loads, cheapest first. Knobs that were not measured under every load
/// are left out.
pub(super) fn ranked(loads: &[HashMap<Knobs, f64>]) -> Vec<(Knobs, f64)> {
    let Some(first) = loads.first() else {
        return Vec::new();
    };
    let mut ranked: Vec<(Knobs, f64)> = first
        .keys()
        .filter_map(|&knobs| {
            let costs: Option<Vec<f64>> =
                loads.iter().map(|load| load.get(&knobs).copied()).collect();
            let logs: Vec<f64> = costs?.iter().map(|cost| cost.ln()).collect();
            Some((knobs, (logs.iter().sum::<f64>() / logs.len() as f64).exp()))
        })
        .collect();
    ranked.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
    ranked
}

/// The cost, relative to the cheapest, up to which a smaller buffer is preferred. Memory is what the server promises,
/// and less than this is within the spread.
const KNEE: f64 = 1.05;

/// The knee: of all knobs within 5% of the cheapest, those with the smallest send buffer, and of these
/// the cheapest.
pub(super) fn knee(ranked: &[(Knobs, f64)]) -> Option<(Knobs, f64)> {
    let bound = ranked.first()?.1 * KNEE;
    let buffer = |knobs: &Knobs| knobs.send_buffer.unwrap_or(u32::MAX);
    ranked
        .iter()
        .take_while(|(_, cost)| *cost <= bound)
        .min_by(|a, b| buffer(&a.0).cmp(&buffer(&b.0)).then(a.1.total_cmp(&b.1)))
        .copied()
}

/// The knobs measured again for one way and block size: the best over all loads, the best of each load, and `always`.
pub(super) fn finalists(
    loads: &[HashMap<Knobs, f64>],
    overall: usize,
    each: usize,
    always: &[Knobs],
) -> Vec<Knobs> {
    let mut chosen: Vec<Knobs> = always.to_vec();
    let mut add = |ranked: Vec<(Knobs, f64)>, count: usize| {
        for (knobs, _) in ranked.into_iter().take(count) {
            if !chosen.contains(&knobs) {
                chosen.push(knobs);
            }
        }
    };
    add(ranked(loads), overall);
    for load in loads {
        add(ranked(std::slice::from_ref(load)), each);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knobs(send_buffer: u32, turn: u32) -> Knobs {
        Knobs {
            send_buffer: Some(send_buffer),
            unsent: None,
            turn,
            segment: None,
        }
    }

    #[test]
    fn combinations_equal_to_another_are_left_out() {
        let axes = Axes {
            send_buffers: vec![None, Some(32 << 10), Some(128 << 10)],
            unsent: vec![None, Some(64 << 10)],
            turns: vec![128 << 10, 256 << 10],
            segments: vec![None],
        };
        let all = axes.knobs();
        // Autotuned: all four. 32 KiB: only without a limit and with the smallest turn. 128 KiB: all.
        assert_eq!(all.len(), 4 + 1 + 4);
        assert!(all.contains(&knobs(32 << 10, 128 << 10)));
        let different: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
    }

    #[test]
    fn slow_is_dear() {
        let sample = |gb_s, core_per_gb| Sample {
            gb_s,
            core_per_gb,
            both_per_gb: core_per_gb,
            thread_per_gb: 0.0,
            turns_per_gb: 0.0,
            client_busy: 0.0,
        };
        let (a, b, c) = (knobs(1, 1), knobs(2, 1), knobs(3, 1));
        let samples = HashMap::from([
            (a, sample(2.0, 0.4)),
            (b, sample(1.0, 0.4)),
            (c, sample(1.9, 0.5)),
        ]);
        let costs = costs(&samples);
        assert_eq!(costs[&a], 1.0);
        assert!((costs[&b] - 1.8).abs() < 1e-9);
        assert!((costs[&c] - 1.25).abs() < 1e-9);
    }

    #[test]
    fn the_knee_is_the_smallest_buffer_that_is_hardly_dearer() {
        let loads = [
            HashMap::from([
                (knobs(512, 1), 1.0),
                (knobs(128, 1), 1.04),
                (knobs(128, 2), 1.03),
                (knobs(32, 1), 2.0),
            ]),
            HashMap::from([
                (knobs(512, 1), 1.0),
                (knobs(128, 1), 1.04),
                (knobs(128, 2), 1.03),
                (knobs(64, 1), 1.0),
            ]),
        ];
        let ranked = ranked(&loads);
        assert_eq!(ranked.len(), 3, "only those tried under both");
        assert_eq!(ranked[0].0, knobs(512, 1));
        assert_eq!(knee(&ranked).unwrap().0, knobs(128, 2));
        let again = finalists(&loads, 1, 1, &[knobs(7, 7)]);
        assert_eq!(again.len(), 3, "{again:?}");
        assert_eq!(again[0], knobs(7, 7));
    }
}
