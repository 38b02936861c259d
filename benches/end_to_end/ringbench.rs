//! The load generator, which is a package of its own.
//!
//! Owns: how it is built. Touches: cargo. Always: release, in the directory that this program was built in.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds it; where it is.
pub fn build() -> Result<PathBuf, crate::Error> {
    let ringd = Path::new(env!("CARGO_BIN_EXE_ringd"));
    let target_dir = ringd.parent().and_then(Path::parent).ok_or("cargo's layout is TARGET_DIR/PROFILE/ringd")?;
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--quiet", "--package", "ringbench", "--target-dir"]).arg(target_dir);
    let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status()?;
    if !status.success() {
        return Err(format!("building ringbench failed: {status}").into());
    }
    Ok(target_dir.join("release/ringbench"))
}
