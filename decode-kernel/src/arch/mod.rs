//! The arithmetic of `rs8` on whole slices: one back-end per instruction set, one chooser.
//!
//! A [`Kernel`] is a back-end this CPU has; there is no other way to get one, so a kernel at hand
//! is a proof that its instructions exist. [`Products`] is a matrix of GF(2^8) coefficients laid
//! out for a kernel, and applies it: each output is the sum of the inputs times their coefficients.
//!
//! The environment variable `PENSTOCK_KERNEL` overrides the choice, for tests and comparisons.

mod portable;

use std::sync::OnceLock;

use portable::BitLists;

/// The environment variable that names the kernel to use instead of the best.
pub const KERNEL_VARIABLE: &str = "PENSTOCK_KERNEL";

/// A back-end that this CPU can run.
#[derive(Clone, Copy)]
pub struct Kernel(Backend);

#[derive(Clone, Copy)]
enum Backend {
    Portable,
}

/// Why a named kernel can't be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// No kernel has this name.
    #[error("no kernel is called `{name}`; there are: {}", NAMES.join(", "))]
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// The kernel exists, but needs instructions that this CPU lacks.
    #[error("this CPU can't run the kernel `{name}`; it can run: {available}")]
    Unavailable {
        /// The name asked for.
        name: String,
        /// Names of those available, separated by commas.
        available: String,
    },
}

/// All kernels of all CPUs, best first among those of one architecture.
const NAMES: &[&str] = &["portable"];

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
    /// When there's none of that name, or this CPU can't run it; the message lists what there is.
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

    /// The kernel of this process: [`Kernel::requested`], asked once. If that fails, the best is
    /// taken and standard error says so, once.
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
            Backend::Portable => "portable",
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

/// A matrix of coefficients, laid out for the kernel that will apply it.
pub struct Products {
    inputs: usize,
    outputs: usize,
    layout: Layout,
}

/// The coefficients in the form each kernel wants, together with the kernel.
enum Layout {
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
            Layout::Portable(lists) => lists.bytes(),
        }
    }

    /// Overwrites each output with the sum of the inputs times its row's coefficients.
    ///
    /// # Panics
    ///
    /// Unless there are as many slices as the matrix has columns and rows, all of one length.
    pub fn apply(&self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
        // The back-ends' unsafe code rests on these.
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
            Layout::Portable(lists) => portable::apply(lists, inputs, outputs),
        }
    }
}
