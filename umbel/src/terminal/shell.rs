//! Completions and the manual page, from the command line itself.

use std::io::{self, Write};

use clap::{Args, ValueEnum};
use clap_complete::{Shell, generate};
use clap_mangen::Man;

use crate::cli;

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    #[arg(value_enum)]
    shell: Known,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Known {
    Bash,
    Zsh,
    Fish,
}

pub(super) fn completions(name: &'static str, args: &CompletionsArgs) -> anyhow::Result<()> {
    let shell = match args.shell {
        Known::Bash => Shell::Bash,
        Known::Zsh => Shell::Zsh,
        Known::Fish => Shell::Fish,
    };
    let mut text = Vec::new();
    generate(shell, &mut cli::command(name), name, &mut text);
    Ok(io::stdout().write_all(&text)?)
}

/// One page: the command, and each verb below it.
pub(super) fn man(name: &'static str) -> anyhow::Result<()> {
    let mut command = cli::command(name);
    command.build();
    let mut page = Vec::new();
    let man = Man::new(command.clone());
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
        writeln!(page, ".SH {} {}", name.to_uppercase(), verb.get_name().to_uppercase())?;
        // The options of all verbs stand above.
        let own =
            verb.clone().mut_args(|arg| if arg.is_global_set() { arg.hide(true) } else { arg });
        let own = Man::new(own);
        own.render_description_section(&mut page)?;
        own.render_synopsis_section(&mut page)?;
        own.render_options_section(&mut page)?;
    }
    Ok(io::stdout().write_all(&page)?)
}
