//! A plan: the work of rebuilding one erasure pattern, prepared once and used for every range.

use super::{Code, CodeError, CodeKind, Role, rs8, rs16};
use crate::arch::{Kernel, Products, WideProducts};

/// How to rebuild some shares of a code from others. Immutable; made by [`Plan::new`], cached by
/// [`super::Coder`].
pub struct Plan {
    k: usize,
    n: usize,
    granularity: usize,
    work: Work,
}

enum Work {
    /// rs8: every output is a sum of products of the inputs.
    Products(Products),
    /// rs16, if few shares are wanted: likewise.
    WideProducts(WideProducts),
    /// rs16: the crate finds the data by transforms. The numbers are those of the call.
    Transform {
        sources: Box<[usize]>,
        wanted: Box<[usize]>,
    },
}

impl Plan {
    /// The plan for rebuilding `wanted` (data or parity shares) from `sources` (exactly k).
    ///
    /// # Errors
    ///
    /// If there are not exactly k sources, a number is out of range or given twice, or a wanted
    /// share is a source.
    pub fn new(
        code: &Code,
        kernel: Kernel,
        sources: &[usize],
        wanted: &[usize],
    ) -> Result<Plan, CodeError> {
        check_numbers(code, sources, wanted)?;
        let work = match code.kind() {
            CodeKind::Rs8 => {
                let coefficients = rs8::coefficients(sources, wanted);
                Work::Products(Products::new(
                    kernel,
                    sources.len(),
                    wanted.len(),
                    &coefficients,
                ))
            }
            CodeKind::Rs16 => match wide_products(code, kernel, sources, wanted)? {
                Some(products) => Work::WideProducts(products),
                None => Work::Transform {
                    sources: sources.into(),
                    wanted: wanted.into(),
                },
            },
        };
        Ok(Plan {
            k: code.k(),
            n: code.n(),
            granularity: code.granularity(),
            work,
        })
    }

    /// Rebuilds one range: `inputs[i]` is the range of share `sources[i]`, and `outputs[i]`
    /// receives that of `wanted[i]`.
    pub(crate) fn rebuild(
        &self,
        space: &mut rs16::Space,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
    ) -> Result<(), CodeError> {
        self.check_slices(inputs, outputs)?;
        if inputs[0].is_empty() || outputs.is_empty() {
            return Ok(());
        }
        match &self.work {
            Work::Products(products) => {
                products.apply(inputs, outputs);
                Ok(())
            }
            Work::WideProducts(products) => {
                products.apply(inputs, outputs);
                Ok(())
            }
            Work::Transform { sources, wanted } => {
                space.rebuild(self.k, self.n, sources, inputs, wanted, outputs)
            }
        }
    }

    /// Bytes this plan holds on the heap.
    pub fn bytes(&self) -> usize {
        match &self.work {
            Work::Products(products) => products.bytes(),
            Work::WideProducts(products) => products.bytes(),
            Work::Transform { sources, wanted } => {
                size_of_val::<[usize]>(sources) + size_of_val::<[usize]>(wanted)
            }
        }
    }

    fn outputs(&self) -> usize {
        match &self.work {
            Work::Products(products) => products.outputs(),
            Work::WideProducts(products) => products.outputs(),
            Work::Transform { wanted, .. } => wanted.len(),
        }
    }

    /// Checks that the lists match the plan's shares, and that all slices have one length, which
    /// suits the code.
    fn check_slices(&self, inputs: &[&[u8]], outputs: &[&mut [u8]]) -> Result<(), CodeError> {
        let (k, wanted) = (self.k, self.outputs());
        if inputs.len() != k {
            return Err(CodeError::Slices {
                role: Role::Source,
                expected: k,
                got: inputs.len(),
            });
        }
        if outputs.len() != wanted {
            let got = outputs.len();
            return Err(CodeError::Slices {
                role: Role::Wanted,
                expected: wanted,
                got,
            });
        }
        let expected = inputs[0].len();
        let unequal = |role, lengths: &mut dyn Iterator<Item = usize>| {
            let (index, got) = lengths.enumerate().find(|&(_, got)| got != expected)?;
            Some(CodeError::Length {
                role,
                index,
                expected,
                got,
            })
        };
        if let Some(error) = unequal(Role::Source, &mut inputs.iter().map(|s| s.len())) {
            return Err(error);
        }
        if let Some(error) = unequal(Role::Wanted, &mut outputs.iter().map(|s| s.len())) {
            return Err(error);
        }
        let granularity = self.granularity;
        if !expected.is_multiple_of(granularity) {
            return Err(CodeError::Granularity {
                got: expected,
                granularity,
            });
        }
        Ok(())
    }
}

/// The sums of products that give `wanted`, if they are faster than the crate's transforms: few
/// shares are wanted, the kernel has code for them, and the code is narrow enough to keep its
/// matrix.
fn wide_products(
    code: &Code,
    kernel: Kernel,
    sources: &[usize],
    wanted: &[usize],
) -> Result<Option<WideProducts>, CodeError> {
    if wanted.is_empty() || wanted.len() > WideProducts::outputs_max(kernel) {
        return Ok(None);
    }
    let Some(generator) = code.generator()? else {
        return Ok(None);
    };
    let coefficients = generator.coefficients(sources, wanted);
    Ok(WideProducts::new(
        kernel,
        sources.len(),
        wanted.len(),
        &coefficients,
    ))
}

/// Checks for exactly k different sources, and for wanted shares that differ from them and from
/// each other. All must exist.
fn check_numbers(code: &Code, sources: &[usize], wanted: &[usize]) -> Result<(), CodeError> {
    if sources.len() != code.k() {
        return Err(CodeError::Sources {
            k: code.k(),
            got: sources.len(),
        });
    }
    let mut seen: Vec<Option<Role>> = vec![None; code.n()];
    let numbers = sources.iter().map(|&s| (Role::Source, s));
    for (role, number) in numbers.chain(wanted.iter().map(|&w| (Role::Wanted, w))) {
        let Some(seen) = seen.get_mut(number) else {
            return Err(CodeError::Number {
                role,
                number,
                n: code.n(),
            });
        };
        match seen.replace(role) {
            Some(Role::Source) if role == Role::Wanted => {
                return Err(CodeError::WantedIsSource { number });
            }
            Some(_) => return Err(CodeError::Twice { role, number }),
            None => {}
        }
    }
    Ok(())
}
