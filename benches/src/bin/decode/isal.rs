//! ISA-L, the library that most erasure-coded systems use, loaded at run time where it is installed (Debian:
//! `libisal2`). Its field is that of rs8, so it gets the same coefficients.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_uchar};

use anyhow::{Context, ensure};
use libloading::Symbol;

/// `ec_init_tables(k, rows, coefficients, tables)`: 32 bytes of tables per coefficient.
type InitTables = unsafe extern "C" fn(c_int, c_int, *const c_uchar, *mut c_uchar);
/// `ec_encode_data(len, k, rows, tables, data, coding)`.
type EncodeData = unsafe extern "C" fn(
    c_int,
    c_int,
    c_int,
    *const c_uchar,
    *const *const c_uchar,
    *const *mut c_uchar,
);

const FILE: &str = "libisal.so.2";

/// The library, while it is loaded.
pub(crate) struct Library {
    library: libloading::Library,
    init_tables: InitTables,
}

/// One of the library's encoders.
#[derive(Clone, Copy)]
pub(crate) struct Encoder<'a> {
    encode: EncodeData,
    library: &'a Library,
}

/// The library's form of a matrix.
pub(crate) struct Tables {
    inputs: usize,
    outputs: usize,
    bytes: Vec<u8>,
}

impl Library {
    pub(crate) fn load() -> anyhow::Result<Library> {
        // SAFETY: ISA-L's initialisers only detect the CPU.
        let library = unsafe { libloading::Library::new(FILE) }
            .with_context(|| format!("{FILE} can't be loaded (Debian: apt install libisal2)"))?;
        // SAFETY: the function has had this type in every version of the 2 ABI.
        let init_tables = *unsafe { library.get::<InitTables>(b"ec_init_tables\0") }?;
        Ok(Library {
            library,
            init_tables,
        })
    }

    /// The library's file. Its full name has the version.
    pub(crate) fn description(&self) -> String {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let file = maps
            .lines()
            .find_map(|line| line.rsplit('/').next().filter(|f| f.contains("libisal")));
        file.unwrap_or(FILE).to_owned()
    }

    /// The code that its own dispatcher chooses, and its AVX2 code by name.
    pub(crate) fn variants(&self) -> Vec<(&'static str, Encoder<'_>)> {
        [
            ("isa-l", "ec_encode_data\0"),
            ("isa-l avx2", "ec_encode_data_avx2\0"),
        ]
        .into_iter()
        .filter(|(name, _)| !name.ends_with("avx2") || has_avx2())
        .filter_map(|(name, symbol)| {
            // SAFETY: the functions have had this type in every version of the 2 ABI.
            let encode: Symbol<EncodeData> = unsafe { self.library.get(symbol.as_bytes()) }.ok()?;
            Some((
                name,
                Encoder {
                    encode: *encode,
                    library: self,
                },
            ))
        })
        .collect()
    }
}

fn has_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

impl Encoder<'_> {
    /// Prepares a matrix of `outputs` rows.
    pub(crate) fn tables(&self, inputs: usize, outputs: usize, coefficients: &[u8]) -> Tables {
        assert_eq!(coefficients.len(), inputs * outputs);
        let mut bytes = vec![0; 32 * coefficients.len()];
        // SAFETY: it reads inputs * outputs coefficients and writes 32 bytes for each.
        unsafe {
            let (k, rows) = (inputs as c_int, outputs as c_int);
            (self.library.init_tables)(k, rows, coefficients.as_ptr(), bytes.as_mut_ptr());
        }
        Tables {
            inputs,
            outputs,
            bytes,
        }
    }

    /// Overwrites the outputs with the matrix times the inputs.
    pub(crate) fn apply(
        &self,
        tables: &Tables,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
    ) -> anyhow::Result<()> {
        let len = inputs.first().map_or(0, |input| input.len());
        ensure!(
            inputs.len() == tables.inputs && outputs.len() == tables.outputs,
            "counts"
        );
        ensure!(
            inputs.iter().all(|input| input.len() == len),
            "inputs of one length"
        );
        ensure!(
            outputs.iter().all(|output| output.len() == len),
            "outputs of that length"
        );
        let len = c_int::try_from(len)?;
        let data: Vec<*const u8> = inputs.iter().map(|input| input.as_ptr()).collect();
        let coding: Vec<*mut u8> = outputs
            .iter_mut()
            .map(|output| output.as_mut_ptr())
            .collect();
        // SAFETY: the tables are of that matrix; there are as many pointers as its columns and rows,
        // each to `len` bytes, as checked above; the library is loaded.
        unsafe {
            let (k, rows) = (tables.inputs as c_int, tables.outputs as c_int);
            let tables = tables.bytes.as_ptr();
            (self.encode)(len, k, rows, tables, data.as_ptr(), coding.as_ptr());
        }
        Ok(())
    }
}
