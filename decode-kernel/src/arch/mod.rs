//! The arithmetic of `rs8` on whole slices: one back-end per instruction set, and the code that chooses one. Beside it,
//! in the same style, the hash and the cipher of Tahoe-LAFS: [`ShaKernel`] and [`AesKernel`].
//!
//! A [`Kernel`] is a back-end that this CPU can run. A value is made only after its instructions were detected, so
//! holding one proves that they exist. [`Products`] is a matrix of GF(2^8) coefficients laid out for a kernel. It
//! applies the matrix: each output is the sum of the inputs times their coefficients.
//!
//! The environment variable `PENSTOCK_KERNEL` overrides the choice, for tests and comparisons. Hashes and ciphers then
//! use no wider instructions either.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod aes;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod grouped;
#[cfg(target_arch = "x86_64")]
mod lockstep;
mod portable;
pub(crate) mod sha;
pub(crate) mod sha_block;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod tables;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod vector;
// Where no kernel has code for GF(2^16), the rest of that module is unused.
#[cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    allow(dead_code, unreachable_code, unused_variables)
)]
mod wide;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::sync::OnceLock;

pub use aes::AesKernel;
pub(crate) use aes::Cipher;
pub use sha::ShaKernel;
pub(crate) use wide::WideProducts;

#[cfg(target_arch = "aarch64")]
use aarch64::neon::Neon;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use grouped::Grouped;
use portable::BitLists;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use tables::Nibbles;
#[cfg(target_arch = "x86_64")]
use x86_64::{avx2::Avx2, avx2_gfni::Avx2Gfni, avx512_gfni::Avx512Gfni};

/// The environment variable that names the kernel to use instead of the best.
pub const KERNEL_VARIABLE: &str = "PENSTOCK_KERNEL";

/// A back-end that this CPU can run.
#[derive(Clone, Copy)]
pub struct Kernel(Backend);

#[derive(Clone, Copy)]
enum Backend {
    #[cfg(target_arch = "x86_64")]
    Avx512Gfni(Avx512Gfni),
    #[cfg(target_arch = "x86_64")]
    Avx2Gfni(Avx2Gfni),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
    Portable,
}

/// Why a named kernel cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// No kernel has this name.
    #[error("no kernel is called `{name}`; there are: {}", NAMES.join(", "))]
    Unknown {
        /// The requested name.
        name: String,
    },
    /// The kernel exists, but needs instructions that this CPU lacks.
    #[error("this CPU can't run the kernel `{name}`; it can run: {available}")]
    Unavailable {
        /// The requested name.
        name: String,
        /// Names of those available, separated by commas.
        available: String,
    },
}

/// All kernels of all CPUs, best first among those of one architecture.
const NAMES: &[&str] = &["avx512-gfni", "avx2-gfni", "avx2", "neon", "portable"];

impl Kernel {
    /// The kernels that this CPU can run, best first; the last is `portable`.
    pub fn available() -> impl Iterator<Item = Kernel> {
        NAMES.iter().filter_map(|name| Kernel::detect(name))
    }

    /// The names of all kernels, whether this CPU can run them or not.
    pub fn names() -> &'static [&'static str] {
        NAMES
    }

    /// The kernel called `name`.
    ///
    /// # Errors
    ///
    /// If no kernel has that name, or this CPU cannot run it; the message lists the kernels that it can run.
    pub fn named(name: &str) -> Result<Kernel, KernelError> {
        if !NAMES.contains(&name) {
            return Err(KernelError::Unknown {
                name: name.to_owned(),
            });
        }
        Kernel::detect(name).ok_or_else(|| {
            let available: Vec<_> = Kernel::available().map(|kernel| kernel.name()).collect();
            KernelError::Unavailable {
                name: name.to_owned(),
                available: available.join(", "),
            }
        })
    }

    /// The kernel that `PENSTOCK_KERNEL` names, or the best where it is unset or empty. A program
    /// calls this when it starts, to refuse a bad name.
    ///
    /// # Errors
    ///
    /// As [`Kernel::named`].
    pub fn requested() -> Result<Kernel, KernelError> {
        match std::env::var_os(KERNEL_VARIABLE) {
            Some(name) if !name.is_empty() => Kernel::named(&name.to_string_lossy()),
            _ => Ok(Kernel::best()),
        }
    }

    /// The kernel of this process: [`Kernel::requested`], evaluated once. If that fails, the best kernel is used, and a
    /// message on standard error says so, once.
    pub fn chosen() -> Kernel {
        static CHOSEN: OnceLock<Kernel> = OnceLock::new();
        *CHOSEN.get_or_init(|| {
            Kernel::requested().unwrap_or_else(|error| {
                let best = Kernel::best();
                eprintln!(
                    "{KERNEL_VARIABLE} is ignored: {error}; using `{}`",
                    best.name()
                );
                best
            })
        })
    }

    /// Its name, as `PENSTOCK_KERNEL` takes it.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512Gfni(_) => "avx512-gfni",
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2Gfni(_) => "avx2-gfni",
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2(_) => "avx2",
            #[cfg(target_arch = "aarch64")]
            Backend::Neon(_) => "neon",
            Backend::Portable => "portable",
        }
    }

    /// The instructions that other arithmetic may use beside this kernel.
    fn instructions(self) -> Instructions {
        // The best kernel may lack instructions that other arithmetic can use: AVX-512 is older than GFNI.
        if self.name() == Kernel::best().name() {
            return Instructions::Any;
        }
        match self.name() {
            "avx2-gfni" | "avx2" => Instructions::Avx2,
            _ => Instructions::Portable,
        }
    }

    fn best() -> Kernel {
        Kernel::available()
            .next()
            .unwrap_or(Kernel(Backend::Portable))
    }

    /// The kernel of this name, if this CPU can run it.
    fn detect(name: &str) -> Option<Kernel> {
        match name {
            #[cfg(target_arch = "x86_64")]
            "avx512-gfni" => Some(Kernel(Backend::Avx512Gfni(Avx512Gfni::detect()?))),
            #[cfg(target_arch = "x86_64")]
            "avx2-gfni" => Some(Kernel(Backend::Avx2Gfni(Avx2Gfni::detect()?))),
            #[cfg(target_arch = "x86_64")]
            "avx2" => Some(Kernel(Backend::Avx2(Avx2::detect()?))),
            #[cfg(target_arch = "aarch64")]
            "neon" => Some(Kernel(Backend::Neon(Neon::detect()?))),
            "portable" => Some(Kernel(Backend::Portable)),
            _ => None,
        }
    }
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Kernel").field(&self.name()).finish()
    }
}

/// The instructions that back-ends for other arithmetic may use. A kernel named for tests and comparisons stands for a
/// CPU that has nothing wider.
enum Instructions {
    /// Everything that the CPU has.
    Any,
    /// AVX2, as CPUs with AVX2 have it, and nothing wider.
    Avx2,
    /// Only the crates.
    Portable,
}

/// A matrix of coefficients, laid out for the kernel that will apply it.
pub struct Products {
    inputs: usize,
    outputs: usize,
    layout: Layout,
}

/// The coefficients in the form that each kernel needs, with the kernel.
enum Layout {
    #[cfg(target_arch = "x86_64")]
    Avx512Gfni(Avx512Gfni, Grouped<u64>),
    #[cfg(target_arch = "x86_64")]
    Avx2Gfni(Avx2Gfni, Grouped<u64>),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2, Grouped<Nibbles>),
    #[cfg(target_arch = "aarch64")]
    Neon(Neon, Grouped<Nibbles>),
    Portable(BitLists),
}

impl Products {
    /// The matrix with `outputs` rows of `inputs` coefficients each, for `kernel`.
    ///
    /// # Panics
    ///
    /// Unless there are `inputs * outputs` coefficients and 1..=256 inputs: only this crate's codes
    /// make matrices for others.
    pub fn new(kernel: Kernel, inputs: usize, outputs: usize, coefficients: &[u8]) -> Products {
        assert_eq!(
            coefficients.len(),
            inputs * outputs,
            "{outputs} rows of {inputs}"
        );
        assert!((1..=256).contains(&inputs), "{inputs} inputs");
        let layout = match kernel.0 {
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512Gfni(kernel) => {
                Layout::Avx512Gfni(kernel, kernel.lay_out(inputs, outputs, coefficients))
            }
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2Gfni(kernel) => {
                Layout::Avx2Gfni(kernel, kernel.lay_out(inputs, outputs, coefficients))
            }
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2(kernel) => {
                Layout::Avx2(kernel, kernel.lay_out(inputs, outputs, coefficients))
            }
            #[cfg(target_arch = "aarch64")]
            Backend::Neon(kernel) => {
                Layout::Neon(kernel, kernel.lay_out(inputs, outputs, coefficients))
            }
            Backend::Portable => Layout::Portable(BitLists::new(inputs, coefficients)),
        };
        Products {
            inputs,
            outputs,
            layout,
        }
    }

    /// Rows: how many outputs there are.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Bytes held on the heap.
    pub fn bytes(&self) -> usize {
        match &self.layout {
            #[cfg(target_arch = "x86_64")]
            Layout::Avx512Gfni(_, matrix) => matrix.bytes(),
            #[cfg(target_arch = "x86_64")]
            Layout::Avx2Gfni(_, matrix) => matrix.bytes(),
            #[cfg(target_arch = "x86_64")]
            Layout::Avx2(_, matrix) => matrix.bytes(),
            #[cfg(target_arch = "aarch64")]
            Layout::Neon(_, matrix) => matrix.bytes(),
            Layout::Portable(lists) => lists.bytes(),
        }
    }

    /// The largest value of [`Products::bytes`] for matrices of up to this size, of any kernel.
    pub fn bytes_max(inputs: usize, outputs: usize) -> usize {
        // Nibble tables take 32 bytes per coefficient; bit lists up to 8, and 64 per output.
        outputs * (32 * inputs + 64)
    }

    /// Overwrites each output with the sum of the inputs times its row's coefficients.
    ///
    /// # Panics
    ///
    /// Unless there are as many slices as the matrix has columns and rows, all of one length.
    pub fn apply(&self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
        // The back-ends' unsafe code relies on these checks.
        assert_eq!(inputs.len(), self.inputs, "inputs");
        assert_eq!(outputs.len(), self.outputs, "outputs");
        let len = inputs[0].len();
        assert!(
            inputs.iter().all(|input| input.len() == len),
            "inputs of one length"
        );
        assert!(
            outputs.iter().all(|output| output.len() == len),
            "outputs of the inputs' length"
        );
        match &self.layout {
            #[cfg(target_arch = "x86_64")]
            Layout::Avx512Gfni(kernel, matrix) => kernel.apply(matrix, inputs, outputs),
            #[cfg(target_arch = "x86_64")]
            Layout::Avx2Gfni(kernel, matrix) => kernel.apply(matrix, inputs, outputs),
            #[cfg(target_arch = "x86_64")]
            Layout::Avx2(kernel, matrix) => kernel.apply(matrix, inputs, outputs),
            #[cfg(target_arch = "aarch64")]
            Layout::Neon(kernel, matrix) => kernel.apply(matrix, inputs, outputs),
            Layout::Portable(lists) => portable::apply(lists, inputs, outputs),
        }
    }
}
