//! Pulls an image and unpacks its layers, several at once: for measuring, and to look at what a
//! registry has.
//!
//! Usage: `cargo run --release -p banger-image --example pull -- SOURCE CACHE OUT [INSECURE_HOST]`
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is a command line tool")]

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use banger_host::fs::{create_new, create_private_dir, remove_all};
use banger_image::oci::{Allowance, Cache, Settings, Source, pull};
use banger_model::Silent;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [source, cache, out, insecure @ ..] = args.as_slice() else {
        return Err("usage: pull SOURCE CACHE OUT [INSECURE_HOST]".into());
    };
    let source: Source = source.parse()?;
    let cache = Cache::open(&std::path::absolute(Path::new(cache))?)?;
    let settings = Settings { insecure: insecure.iter().cloned().collect(), ..Settings::default() };
    let begin = Instant::now();
    let pulled = pull(source, &cache, &settings, &Silent).await?;
    eprintln!("pulled {} in {:.2?}", pulled.manifest_digest, begin.elapsed());
    create_private_dir(Path::new(out))?;
    let allowance = Arc::new(Allowance::of(&pulled.layers));
    let mut unpacking = tokio::task::JoinSet::new();
    for (n, layer) in pulled.layers.iter().cloned().enumerate() {
        let path = Path::new(out).join(format!("{n}.tar"));
        let allowance = allowance.clone();
        unpacking.spawn_blocking(move || {
            remove_all(&path)?;
            let unpacked = layer.unpack_into(&create_new(&path)?, &allowance)?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((path, unpacked.size))
        });
    }
    for unpacked in unpacking.join_all().await {
        let (path, size) = unpacked?;
        println!("{} {size}", path.display());
    }
    eprintln!("unpacked after {:.2?}", begin.elapsed());
    Ok(())
}
