//! A migration that is added has to be embedded, although no Rust file changed.

fn main() {
    println!("cargo:rerun-if-changed=../migrations");
}
