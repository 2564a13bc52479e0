//! Compiles the `.proto` files with a compiler written in Rust, so that building needs no `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=kms");
    let mut compiler = protox::Compiler::new(["kms"])?;
    compiler.include_source_info(true).include_imports(true).open_files([
        "kms.v1.proto",
        "kms_service.v1.proto",
        "metastore_status.v1.proto",
    ])?;

    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        // Ciphertexts are tens of megabytes: a cheap clone lets a call be repeated without copying them.
        .bytes(".kms.v1.TypedCiphertext.ciphertext")
        // A server of an older version leaves the RPCs it lacks to the default, which answers UNIMPLEMENTED.
        .generate_default_stubs(true)
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
