//! Makes `data/omniglot28.gz`, which ships with this crate, from the official files:
//!
//! ```text
//! cargo run -p leap-tasks --example pack_omniglot -- \
//!     images_background.zip images_evaluation.zip crates/leap-tasks/data/omniglot28.gz
//! ```

use leap_tasks::omniglot::Omniglot;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut paths: Vec<String> = std::env::args().skip(1).collect();
    let Some(target) = paths.pop().filter(|_| !paths.is_empty()) else {
        return Err("usage: pack_omniglot ZIP_OR_FOLDER... TARGET".into());
    };
    let data = Omniglot::load(&paths, 28)?;
    data.save(&target)?;
    let characters: usize = data.alphabets().iter().map(|a| a.characters.len()).sum();
    println!(
        "{target}: {} alphabets, {characters} characters",
        data.alphabets().len()
    );
    Ok(())
}
