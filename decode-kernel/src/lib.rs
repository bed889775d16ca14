//! decode-kernel
