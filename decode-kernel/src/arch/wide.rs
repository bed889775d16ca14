//! Sums of products in GF(2^16), for `rs16` shares with few losses.
//!
//! Shares are laid out as `reed-solomon-simd` does it: each 64 bytes hold the low bytes of 32
//! elements and then their high bytes. Some kernels have no vector code for this. rs16 then uses
//! the crate's transforms, which are faster than scalar sums.

#[cfg(target_arch = "aarch64")]
use super::aarch64::neon::Neon;
use super::{Backend, Kernel};
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::{grouped::Grouped, tables::WideNibbles};
#[cfg(target_arch = "x86_64")]
use super::{
    tables::WideMatrix,
    x86_64::{avx2::Avx2, avx2_gfni::Avx2Gfni, avx512_gfni::Avx512Gfni},
};

/// A matrix of GF(2^16) coefficients, laid out for the kernel that will apply it.
pub(crate) struct WideProducts {
    inputs: usize,
    outputs: usize,
    layout: Layout,
}

/// The coefficients in the form that each kernel needs, with the kernel.
enum Layout {
    #[cfg(target_arch = "x86_64")]
    Avx512Gfni(Avx512Gfni, Grouped<WideMatrix>),
    #[cfg(target_arch = "x86_64")]
    Avx2Gfni(Avx2Gfni, Grouped<WideMatrix>),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2, Grouped<WideNibbles>),
    #[cfg(target_arch = "aarch64")]
    Neon(Neon, Grouped<WideNibbles>),
}

impl WideProducts {
    /// The number of outputs up to which this kernel beats the crate's transforms; 0 if it has no
    /// code. Measured with `benches` over codes from 4+2 to 200+56: the crate rebuilds 0.4 to 0.8
    /// GB/s whatever the number of lost shares, and a matrix of this many rows still rebuilds
    /// several times that. (NEON was not measured; its number is cautious.) More rows would make
    /// plans large: a row takes up to k KiB.
    pub(crate) fn outputs_max(kernel: Kernel) -> usize {
        match kernel.0 {
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512Gfni(_) => 32,
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2Gfni(_) => 16,
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2(_) => 8,
            #[cfg(target_arch = "aarch64")]
            Backend::Neon(_) => 4,
            Backend::Portable => 0,
        }
    }

    /// The matrix with `outputs` rows of `inputs` coefficients each, if the kernel has code for it.
    pub(crate) fn new(
        kernel: Kernel,
        inputs: usize,
        outputs: usize,
        coefficients: &[u16],
    ) -> Option<WideProducts> {
        assert_eq!(
            coefficients.len(),
            inputs * outputs,
            "{outputs} rows of {inputs}"
        );
        assert!(inputs > 0, "no inputs");
        let layout = match kernel.0 {
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512Gfni(kernel) => {
                Layout::Avx512Gfni(kernel, kernel.lay_out_wide(inputs, outputs, coefficients))
            }
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2Gfni(kernel) => {
                Layout::Avx2Gfni(kernel, kernel.lay_out_wide(inputs, outputs, coefficients))
            }
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2(kernel) => {
                Layout::Avx2(kernel, kernel.lay_out_wide(inputs, outputs, coefficients))
            }
            #[cfg(target_arch = "aarch64")]
            Backend::Neon(kernel) => {
                Layout::Neon(kernel, kernel.lay_out_wide(inputs, outputs, coefficients))
            }
            Backend::Portable => return None,
        };
        Some(WideProducts {
            inputs,
            outputs,
            layout,
        })
    }

    /// Rows: how many outputs there are.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Bytes held on the heap.
    pub(crate) fn bytes(&self) -> usize {
        match &self.layout {
            #[cfg(target_arch = "x86_64")]
            Layout::Avx512Gfni(_, matrix) => matrix.bytes(),
            #[cfg(target_arch = "x86_64")]
            Layout::Avx2Gfni(_, matrix) => matrix.bytes(),
            #[cfg(target_arch = "x86_64")]
            Layout::Avx2(_, matrix) => matrix.bytes(),
            #[cfg(target_arch = "aarch64")]
            Layout::Neon(_, matrix) => matrix.bytes(),
            #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
            _ => unreachable!("no kernel has made one"),
        }
    }

    /// The largest value of [`WideProducts::bytes`] for the matrices that a plan makes, of any
    /// kernel: 32 rows of 32 bytes per coefficient, or 8 of 128.
    pub(crate) fn bytes_max(inputs: usize, outputs: usize) -> usize {
        inputs * (outputs.min(32) * 32).max(outputs.min(8) * 128)
    }

    /// Overwrites each output with the sum of the inputs times its row's coefficients.
    ///
    /// # Panics
    ///
    /// Unless there are as many slices as the matrix has columns and rows, all of one length, which
    /// is a multiple of 64.
    pub(crate) fn apply(&self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
        // The back-ends' unsafe code relies on these checks.
        assert_eq!(inputs.len(), self.inputs, "inputs");
        assert_eq!(outputs.len(), self.outputs, "outputs");
        let len = inputs[0].len();
        assert!(len.is_multiple_of(64), "whole chunks of elements");
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
            Layout::Avx512Gfni(kernel, matrix) => kernel.apply_wide(matrix, inputs, outputs),
            #[cfg(target_arch = "x86_64")]
            Layout::Avx2Gfni(kernel, matrix) => kernel.apply_wide(matrix, inputs, outputs),
            #[cfg(target_arch = "x86_64")]
            Layout::Avx2(kernel, matrix) => kernel.apply_wide(matrix, inputs, outputs),
            #[cfg(target_arch = "aarch64")]
            Layout::Neon(kernel, matrix) => kernel.apply_wide(matrix, inputs, outputs),
            #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
            _ => unreachable!("no kernel has made one"),
        }
    }
}
