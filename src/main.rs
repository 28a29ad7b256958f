//! The program: arguments, then one of: run, validate, show, reload, token. Exit codes: 0 fine,
//! 1 an invalid configuration, a failed start or a failed reload, 2 a wrong command line.

use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use yatagarasu::cli::{Cli, Command, ConfigCommand};
use yatagarasu::config::{self, Config};
use yatagarasu::reload::signals::{self, Caught};
use yatagarasu::{client, logging, server};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything else: until it is caught, SIGHUP ends the process.
    let outcome = signals::catch_hangup().context("SIGHUP cannot be caught").and_then(|caught| {
        let cli = Cli::parse();
        match cli.command {
            None if cli.validate => validate(&cli.config.path),
            None => run(&cli.config.path, caught),
            Some(Command::Config(ConfigCommand::Validate { path })) => validate(&path),
            Some(Command::Config(ConfigCommand::Show(config))) => {
                print(load(&config.path)?.show().trim_end());
                Ok(())
            }
            Some(Command::Reload(reload)) => {
                let config = load(&reload.config.path)?;
                let token = reload.token_file.map(|path| {
                    std::fs::read_to_string(&path).with_context(|| format!("`{}`", path.display()))
                });
                print(&client::reload(&config, token.transpose()?)?);
                Ok(())
            }
            Some(Command::Token(token)) => {
                print(&client::token(&load(&token.config.path)?, &token.claims, token.ttl)?);
                Ok(())
            }
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(path: &Path, signals: Caught) -> Result<()> {
    let config = load(path)?;
    let log = logging::init();
    server::run(path, config, signals, log)
}

fn validate(path: &Path) -> Result<()> {
    let config = load(path)?;
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    print(&format!("{}: valid, {}", path.display(), config.digest));
    Ok(())
}

fn load(path: &Path) -> Result<Config> {
    Ok(config::load(path)?)
}

/// To standard output; a reader that has gone away is no error.
fn print(text: &(impl Display + ?Sized)) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
}
