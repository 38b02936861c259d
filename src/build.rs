//! Tells the linker to route glommio's ring set-up through `ring_flags.rs`, in the server binary and in the benchmark
//! that compares with it.

fn main() {
    println!("cargo:rerun-if-changed=src/build.rs");
    for target in ["bins", "benches"] {
        println!("cargo:rustc-link-arg-{target}=-Wl,--wrap=io_uring_queue_init_params");
    }
}
