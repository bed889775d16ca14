//! The coder: state that one thread keeps between calls so that a call allocates nothing.

use std::num::NonZeroUsize;

use lru::LruCache;

use super::{Code, CodeError, CodeKind, Plan, rs16};
use crate::arch::Kernel;

/// Encodes and rebuilds for one thread. Holds a bounded cache of [`Plan`]s by erasure pattern, and
/// the working space of rs16. Works for any number of codes.
///
/// A call whose pattern is in the cache allocates nothing (rs16: unless its range is longer than
/// any before).
pub struct Coder {
    kernel: Kernel,
    plans: LruCache<Vec<u16>, Plan>,
    space: rs16::Space,
    /// The key of the current call, kept for its capacity.
    key: Vec<u16>,
    /// The numbers 0..n, from which `encode` takes its sources and wanted shares.
    numbers: Vec<usize>,
}

impl Coder {
    /// A coder with the best kernel of this machine ([`Kernel::chosen`]). It keeps at most
    /// `plans_max` plans (at least one) and evicts the least recently used.
    pub fn new(plans_max: usize) -> Coder {
        Coder::with_kernel(plans_max, Kernel::chosen())
    }

    /// As [`Coder::new`], with a kernel of the caller's choice.
    pub fn with_kernel(plans_max: usize, kernel: Kernel) -> Coder {
        let plans_max = NonZeroUsize::new(plans_max).unwrap_or(NonZeroUsize::MIN);
        Coder {
            kernel,
            plans: LruCache::new(plans_max),
            space: rs16::Space::default(),
            key: Vec::new(),
            numbers: Vec::new(),
        }
    }

    /// Computes the parity blocks of a segment. `data`: the k data blocks, of equal length (a
    /// multiple of [`Code::granularity`]). `parity`: n - k slices of that length, overwritten.
    ///
    /// # Errors
    ///
    /// If counts or lengths disagree; nothing is written then.
    pub fn encode(
        &mut self,
        code: &Code,
        data: &[&[u8]],
        parity: &mut [&mut [u8]],
    ) -> Result<(), CodeError> {
        let mut numbers = std::mem::take(&mut self.numbers);
        numbers.extend(numbers.len()..code.n());
        let (sources, wanted) = numbers[..code.n()].split_at(code.k());
        let result = self.rebuild(code, sources, data, wanted, parity);
        self.numbers = numbers;
        result
    }

    /// Rebuilds one byte range of the shares `wanted`, data or parity, from the same range of k
    /// others: `inputs[i]` is the range of share `sources[i]`, and `outputs[i]` receives the range
    /// of share `wanted[i]`. There are exactly k sources, in any order, and none of them is wanted.
    /// The range starts and ends at multiples of [`Code::granularity`].
    ///
    /// # Errors
    ///
    /// If numbers, counts or lengths disagree; nothing is written then.
    pub fn rebuild(
        &mut self,
        code: &Code,
        sources: &[usize],
        inputs: &[&[u8]],
        wanted: &[usize],
        outputs: &mut [&mut [u8]],
    ) -> Result<(), CodeError> {
        // A number that does not fit is outside any code's range, and so is its replacement.
        let narrow = |&number: &usize| u16::try_from(number).unwrap_or(u16::MAX);
        self.key.clear();
        let kind = match code.kind() {
            CodeKind::Rs8 => 1,
            CodeKind::Rs16 => 2,
        };
        self.key.extend([
            kind,
            narrow(&code.k()),
            narrow(&code.n()),
            narrow(&sources.len()),
        ]);
        self.key.extend(sources.iter().chain(wanted).map(narrow));

        let new = || Plan::new(code, self.kernel, sources, wanted);
        let plan = self.plans.try_get_or_insert_ref(self.key.as_slice(), new)?;
        plan.rebuild(&mut self.space, inputs, outputs)
    }

    /// The name of the SIMD back-end in use.
    pub fn kernel_name(&self) -> &'static str {
        self.kernel.name()
    }

    /// Bytes that this coder holds now: plans, and rs16's working space. They grow to a bound that
    /// follows from the widest code, the number of plans, and the longest range.
    pub fn workspace_bytes(&self) -> usize {
        let plans: usize = self
            .plans
            .iter()
            .map(|(key, plan)| 2 * key.capacity() + plan.bytes())
            .sum();
        let own = 2 * self.key.capacity() + size_of::<usize>() * self.numbers.capacity();
        plans + self.space.bytes() + own
    }
}
