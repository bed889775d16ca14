//! The codes: their kinds ([`CodeKind`]), one of a given width ([`Code`]), the work for one erasure pattern ([`Plan`]),
//! and the per-thread state that does the work ([`Coder`]).

mod coder;
mod error;
mod generator16;
mod kind;
mod plan;
mod rs16;
mod rs8;

pub use coder::Coder;
pub use error::{CodeError, Role};
pub use kind::CodeKind;
pub use plan::Plan;

use std::sync::{Arc, OnceLock};

use crate::arch::{Products, WideProducts};
use generator16::Generator;

impl std::str::FromStr for CodeKind {
    type Err = CodeError;

    fn from_str(name: &str) -> Result<Self, CodeError> {
        match name {
            "rs8" => Ok(CodeKind::Rs8),
            "rs16" => Ok(CodeKind::Rs16),
            _ => Err(CodeError::UnknownName),
        }
    }
}

impl TryFrom<u8> for CodeKind {
    type Error = CodeError;

    fn try_from(number: u8) -> Result<Self, CodeError> {
        match number {
            1 => Ok(CodeKind::Rs8),
            2 => Ok(CodeKind::Rs16),
            _ => Err(CodeError::UnknownKind(number)),
        }
    }
}

/// A code of a given width: `k` data shares, numbered 0..k, and parity shares k..n.
#[derive(Clone)]
pub struct Code {
    kind: CodeKind,
    k: usize,
    n: usize,
    /// rs16 as a matrix, made when it is first needed; `None` inside if it is too large to keep.
    generator: OnceLock<Option<Arc<Generator>>>,
}

impl Code {
    /// The code with `k` data shares of `n`.
    ///
    /// # Errors
    ///
    /// [`CodeError::Shape`] unless 1 <= k <= n and n is within the code: 256 for rs8, some 32768 to
    /// 65535, depending on k, for rs16.
    pub fn new(kind: CodeKind, k: usize, n: usize) -> Result<Code, CodeError> {
        let n_max = match kind {
            CodeKind::Rs8 => rs8::SHARES_MAX,
            CodeKind::Rs16 => rs16::SHARES_MAX,
        };
        let fits = 1 <= k && k <= n && n <= n_max;
        if !fits || (kind == CodeKind::Rs16 && !rs16::supports(k, n - k)) {
            return Err(CodeError::Shape { kind, k, n, n_max });
        }
        Ok(Code {
            kind,
            k,
            n,
            generator: OnceLock::new(),
        })
    }

    /// The kind of this code.
    pub fn kind(&self) -> CodeKind {
        self.kind
    }

    /// The number of data shares, which is also the number of shares needed.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The number of all shares.
    pub fn n(&self) -> usize {
        self.n
    }

    /// The unit of ranges in bytes: any range whose start and length are multiples of it can be rebuilt by itself.
    pub fn granularity(&self) -> usize {
        match self.kind {
            CodeKind::Rs8 => 1,
            CodeKind::Rs16 => rs16::GRANULARITY,
        }
    }

    /// Bytes that this code holds on the heap now. They grow once, when an rs16 code first rebuilds, to at most 2 MiB.
    pub fn bytes(&self) -> usize {
        let generator = self.generator.get().and_then(Option::as_ref);
        generator.map_or(0, |generator| generator.bytes())
    }

    /// The largest value of [`Coder::workspace_bytes`] for a coder of `plans_max` plans that works with this code only,
    /// on ranges of up to `range_bytes`, with any kernel.
    pub fn workspace_bytes_max(&self, range_bytes: usize, plans_max: usize) -> usize {
        let parity = self.n - self.k;
        let (plan, space) = match self.kind {
            CodeKind::Rs8 => (Products::bytes_max(self.k, parity), 0),
            CodeKind::Rs16 => {
                let numbers = size_of::<usize>() * self.n;
                let plan = WideProducts::bytes_max(self.k, parity).max(numbers);
                (plan, rs16::Space::bytes_max(self.k, parity, range_bytes))
            }
        };
        // A plan's key has four more numbers than the shares that it names. The coder's own lists may have grown to
        // twice the length they need, or hold the four entries that lists start with.
        let key = size_of::<u16>() * (self.n + 4);
        let own = 2 * (key + size_of::<usize>() * self.n.max(4));
        plans_max.max(1) * (key + plan) + space + own
    }

    /// rs16's generator; `None` for other codes, and if it is too large.
    fn generator(&self) -> Result<Option<&Generator>, CodeError> {
        if let Some(generator) = self.generator.get() {
            return Ok(generator.as_deref());
        }
        let generator = Generator::new(self.k, self.n - self.k)?.map(Arc::new);
        Ok(self.generator.get_or_init(|| generator).as_deref())
    }
}

impl PartialEq for Code {
    fn eq(&self, other: &Code) -> bool {
        (self.kind, self.k, self.n) == (other.kind, other.k, other.n)
    }
}

impl Eq for Code {}

impl std::fmt::Debug for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}-of-{}", self.kind, self.k, self.n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        for (kind, k, n, good) in [
            (CodeKind::Rs8, 1, 1, true),
            (CodeKind::Rs8, 256, 256, true),
            (CodeKind::Rs8, 1, 256, true),
            (CodeKind::Rs8, 0, 4, false),
            (CodeKind::Rs8, 5, 4, false),
            (CodeKind::Rs8, 100, 257, false),
            (CodeKind::Rs16, 1, 1, true),
            (CodeKind::Rs16, 1000, 1024, true),
            (CodeKind::Rs16, 32768, 65535, true),
            (CodeKind::Rs16, 65535, 65535, true),
            (CodeKind::Rs16, 33000, 65535, false),
            (CodeKind::Rs16, 0, 0, false),
            (CodeKind::Rs16, 1, usize::MAX, false),
        ] {
            let code = Code::new(kind, k, n);
            assert_eq!(code.is_ok(), good, "{kind} {k}-of-{n}: {code:?}");
        }
    }

    #[test]
    fn kinds_by_name_and_number() {
        for kind in [CodeKind::Rs8, CodeKind::Rs16] {
            assert_eq!(kind.to_string().parse(), Ok(kind));
            assert_eq!(CodeKind::try_from(kind as u8), Ok(kind));
        }
        assert_eq!("rs9".parse::<CodeKind>(), Err(CodeError::UnknownName));
        assert_eq!(CodeKind::try_from(0), Err(CodeError::UnknownKind(0)));
    }
}
