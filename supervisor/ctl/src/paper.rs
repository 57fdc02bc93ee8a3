//! paper: manual pages and completions.
//!
//! Job: print both from the definition of the command line. May touch: the directory that it was given. Keeps: what they say is
//! what the parser takes.

use crate::answer::{failed, say};
use crate::cli::Cli;
use clap::CommandFactory;
use loom_api::view::Refusal;
use std::fs;
use std::path::Path;

pub fn completions(shell: clap_complete::Shell) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "loomctl", &mut script);
    say(&String::from_utf8_lossy(&script));
}

/// The page of loomctl on stdout, or `loomctl.1`, `loomctl-start.1` and so on in a directory.
pub fn man(directory: Option<&Path>) -> Result<(), Refusal> {
    let mut command = Cli::command();
    command.build();
    let Some(directory) = directory else {
        say(&String::from_utf8_lossy(&page(&command)?));
        return Ok(());
    };
    fs::create_dir_all(directory)
        .map_err(|error| failed(format!("cannot make the directory `{}`", directory.display()), error))?;
    let mut pages = Vec::new();
    collect(&command, "loomctl", &mut pages)?;
    for (name, text) in &pages {
        let file = directory.join(format!("{name}.1"));
        fs::write(&file, text).map_err(|error| failed(format!("cannot write `{}`", file.display()), error))?;
    }
    eprintln!("wrote {} pages into {}", pages.len(), directory.display());
    Ok(())
}

fn collect(command: &clap::Command, name: &str, pages: &mut Vec<(String, Vec<u8>)>) -> Result<(), Refusal> {
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        collect(sub, &format!("{name}-{}", sub.get_name()), pages)?;
    }
    pages.push((name.to_owned(), page(&command.clone().display_name(name))?));
    Ok(())
}

fn page(command: &clap::Command) -> Result<Vec<u8>, Refusal> {
    let mut text = Vec::new();
    let rendered = clap_mangen::Man::new(command.clone()).source("Loom").manual("Loom").render(&mut text);
    rendered.map_err(|error| failed("cannot make the manual page", error))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_its_example() {
        let mut command = Cli::command();
        command.build();
        let mut pages = Vec::new();
        collect(&command, "loomctl", &mut pages).unwrap();
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        for name in ["loomctl", "loomctl-start", "loomctl-state-get", "loomctl-analyze-blame"] {
            assert!(names.contains(&name), "{names:?}");
        }
        for (name, text) in &pages {
            assert!(String::from_utf8_lossy(text).contains("Exit status"), "{name}");
        }
    }
}
