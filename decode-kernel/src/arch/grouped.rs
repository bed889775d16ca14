//! The coefficients of a matrix in the order in which the SIMD back-ends read them.

use std::ops::Range;

/// Inputs of this total length stay in the first-level cache between groups of outputs. Half of the
/// smallest such cache (32 KiB) leaves room for outputs and tables.
const TILE_BYTES: usize = 16 * 1024;

/// Tiles are multiples of this, so that only the last one ends in part of a vector.
const TILE_UNIT: usize = 512;

/// One entry per coefficient. Outputs form groups whose sums fit in registers together. The entries
/// are stored group after group, and within a group input after input, one entry for each output of
/// the group.
pub(super) struct Grouped<T> {
    entries: Box<[T]>,
    inputs: usize,
    outputs: usize,
    groups: usize,
    /// Whether every coefficient is 1, so that sums are plain additions.
    ones: bool,
}

/// The next step of work: sum up these bytes of all inputs for these outputs.
pub(super) struct Step<'a, T> {
    pub(super) bytes: Range<usize>,
    pub(super) outputs: Range<usize>,
    /// Input by input, one entry for each of these outputs.
    pub(super) entries: &'a [T],
}

impl<T> Grouped<T> {
    /// Lays out row-major `coefficients`, with at most `width_max` outputs in a group.
    pub(super) fn new<C: Copy + PartialEq + From<u8>>(
        inputs: usize,
        outputs: usize,
        coefficients: &[C],
        width_max: usize,
        entry: impl Fn(C) -> T,
    ) -> Grouped<T> {
        let groups = outputs.div_ceil(width_max);
        let ones = coefficients
            .iter()
            .all(|&coefficient| coefficient == C::from(1));
        let mut grouped = Grouped {
            entries: Box::default(),
            inputs,
            outputs,
            groups,
            ones,
        };
        let coefficients = &coefficients;
        grouped.entries = (0..groups)
            .flat_map(|group| {
                let outputs = grouped.group(group);
                (0..inputs).flat_map(move |input| {
                    outputs
                        .clone()
                        .map(move |output| coefficients[output * inputs + input])
                })
            })
            .map(entry)
            .collect();
        grouped
    }

    /// Whether every coefficient is 1. (NEON has no separate code for that.)
    #[cfg_attr(target_arch = "aarch64", expect(dead_code))]
    pub(super) fn ones(&self) -> bool {
        self.ones
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val::<[T]>(&self.entries)
    }

    /// The outputs of a group: widths differ by at most one.
    fn group(&self, group: usize) -> Range<usize> {
        group * self.outputs / self.groups..(group + 1) * self.outputs / self.groups
    }

    /// The steps that cover `len` bytes of all outputs. With several groups, the groups take turns
    /// on tiles, which are short enough that the inputs are read from memory once.
    pub(super) fn steps(&self, len: usize) -> impl Iterator<Item = Step<'_, T>> {
        let tile = match self.groups {
            1 => len.max(1),
            _ => (TILE_BYTES / self.inputs).next_multiple_of(TILE_UNIT),
        };
        (0..len).step_by(tile).flat_map(move |from| {
            (0..self.groups).map(move |group| {
                let outputs = self.group(group);
                let entries = outputs.start * self.inputs..outputs.end * self.inputs;
                let bytes = from..len.min(from + tile);
                Step {
                    bytes,
                    outputs,
                    entries: &self.entries[entries],
                }
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps cover every byte of every output once, with the entries of those outputs.
    #[test]
    fn steps_cover_everything_once() {
        for (inputs, outputs, width, len) in [
            (1, 1, 6, 0),
            (3, 1, 6, 9999),
            (5, 7, 6, 20_000),
            (64, 16, 6, 2048),
            (200, 56, 4, 999),
        ] {
            let coefficients: Vec<u8> = (0..inputs * outputs).map(|i| i as u8).collect();
            let grouped = Grouped::new(inputs, outputs, &coefficients, width, |c| c);
            let mut seen = vec![0u8; outputs * len];
            for step in grouped.steps(len) {
                assert!((1..=width).contains(&step.outputs.len()));
                assert!(step.bytes.len().is_multiple_of(TILE_UNIT) || step.bytes.end == len);
                let width = step.outputs.len();
                assert_eq!(step.entries.len(), inputs * width);
                for (at, output) in step.outputs.enumerate() {
                    for input in 0..inputs {
                        let entry = step.entries[input * width + at];
                        assert_eq!(entry, coefficients[output * inputs + input]);
                    }
                    seen[output * len..][step.bytes.clone()]
                        .iter_mut()
                        .for_each(|s| *s += 1);
                }
            }
            assert!(seen.iter().all(|&times| times == 1));
        }
    }
}
