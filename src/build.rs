//! Tells the linker to route two of glommio's calls through `ring_seam.rs`, in the server binary and in the benchmark
//! that compares with it.

fn main() {
    println!("cargo:rerun-if-changed=src/build.rs");
    for target in ["bins", "benches"] {
        for function in ["io_uring_queue_init_params", "io_uring_wait_cqes"] {
            println!("cargo:rustc-link-arg-{target}=-Wl,--wrap={function}");
        }
    }
}
