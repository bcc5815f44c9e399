//! From the command line to the exit code.

use std::{
    io::{self, ErrorKind, Write},
    net::TcpListener as StdListener,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::ArgMatches;
use secrecy::SecretString;
use serde_json::json;
use tokio::{net::TcpStream, runtime, time::sleep};
use tracing::{Level, enabled, error, info, warn};
use umbel_api::Scopes;
use umbel_beat::{ScheduleError, TimetableError};
use umbel_broker::{BrokerError, Client};
use umbel_worker::{RegistryError, WorkerError};

use crate::{
    Application, Env, USAGE,
    cli::{self, Command, DevArgs, TokenArgs},
    config,
    dev::{DevError, Folder, Services, Wants},
    health,
    lifeline::is_supervised,
    roles,
    settings::{self, Settings, SettingsError, database::Environment},
    signals::{Asked, HARD_STOP},
    supervise::{SuperviseError, supervise},
    telemetry::{self, Format},
    terminal::{self, Output, spinning},
    verbs,
};

/// How often a service that is away at start is asked again.
const START_RETRY: Duration = Duration::from_secs(2);

/// A pooler's code for all of its troubles, SQLSTATE: that the server is away, or that it lets nobody in.
const OF_A_POOLER: &str = "08P01";
const LOGIN_HINT: &str =
    " (its pooler may also mean that user, password or database of DATABASE_URL are wrong)";

/// How often the start of the API is looked for.
const READY_LOOK: Duration = Duration::from_millis(100);

/// A token of development lives as long as one sits before it.
const DEV_TOKEN_TTL: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Runs an application by its command line. Ends with 0 when drained, 1 on an error, 2 on wrong
/// usage or settings.
pub fn run<S: Clone + Send + Sync + 'static>(application: Application<S>) -> ExitCode {
    let (cli, matches) = match cli::parse(application.name) {
        Ok(parsed) => parsed,
        Err(error) => {
            // Help and version are "errors" too, with an exit code of their own. Where even this
            // cannot be printed there is nobody to tell.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE));
        }
    };
    // One crypto library for Redis, Postgres and HTTP. It fails only where it was done before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (format, label) = (cli.settings.log_format, cli.command.label());
    // A role alone has a log of its own; a machine that reads many of these is told nevertheless.
    let is_one_of_many = is_supervised() || cli.command.role().is_none() || format == Format::Json;
    let shown = label.filter(|_| is_one_of_many);
    let whose = (application.name, cli.command.role());
    let collector = match telemetry::init(&cli.settings.log_level, format, shown, whose) {
        Ok(collector) => collector,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(USAGE);
        }
    };
    let ended = act(application, cli, &matches);
    if let Some(collector) = collector {
        collector.end();
    }
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where lines are read by machines or are those of several processes, this is one of them.
            let is_a_line = label.is_some() && (format == Format::Json || is_supervised());
            match is_a_line && enabled!(Level::ERROR) {
                true => error!("{error:#}"),
                false => eprintln!("error: {error:#}"),
            }
            ExitCode::from(exit_code(&error))
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref() {
        Some(SuperviseError::AtOnce) => HARD_STOP as u8,
        _ if is_usage(error) => USAGE,
        _ => 1,
    }
}

fn is_usage(error: &anyhow::Error) -> bool {
    // An application may have told its own error around it.
    error.chain().any(|cause| cause.is::<SettingsError>())
        || matches!(error.downcast_ref(), Some(WorkerError::NoQueues | WorkerError::Settings(_)))
        || matches!(
            error.downcast_ref(),
            Some(SuperviseError::Settings(_) | SuperviseError::Refused { .. })
        )
        // The program itself is wrong: starting it again would not mend that either.
        || error.chain().any(|cause| {
            cause.is::<RegistryError>() || cause.is::<TimetableError>() || cause.is::<ScheduleError>()
        })
        || matches!(error.downcast_ref(), Some(BrokerError::Unsuitable(_)))
        || error.downcast_ref::<DevError>().is_some_and(DevError::is_usage)
}

fn act<S: Clone + Send + Sync + 'static>(
    application: Application<S>,
    cli: cli::Cli,
    matches: &ArgMatches,
) -> anyhow::Result<()> {
    let settings = cli.settings;
    if cli.command.label().is_some() && !is_supervised() {
        for unknown in settings::unknown::unknown(&Env::of_process(), application.settings) {
            warn!("{unknown}");
        }
    }
    if let Some(role) = cli.command.role() {
        let runtime = role.runtime().enable_all().build()?;
        let ended = runtime.block_on(roles::run(role, &application, &settings));
        // Not waiting for threads that a task blocks: what it held has been given to others.
        runtime.shutdown_background();
        return ended;
    }
    // The rest waits for others: one thread will do.
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Up => up(&application, &settings).await,
            Command::Dev(args) => dev(&application, settings, &args).await,
            Command::Migrate(output) => {
                let migrating = verbs::migrate(&application, &settings);
                let taken = spinning("migrating", migrating).await?;
                output.print(&json!({"applied": taken}), || format!("{taken} migrations applied"))
            }
            Command::Health { role, output } => {
                let told = health::ask(role, &application, &settings).await?;
                output.print(&json!({"role": role.as_str(), "told": told}), || told.clone())
            }
            Command::Enqueue(args) => verbs::enqueue(&application, &settings, &args).await,
            Command::Status { id, .. } => {
                println!("{}", verbs::status(&settings, &id).await?);
                Ok(())
            }
            Command::Token(args) => {
                let token = verbs::token(&settings, &args)?;
                args.output.print(&json!({"token": token}), || token.clone())
            }
            Command::Terminal(verb) => terminal::run(verb, &application, &settings).await,
            Command::Config(args) => {
                let env = Env::of_process();
                let all = config::effective(matches, &settings, &env, application.settings);
                Ok(print(&match args.json {
                    true => serde_json::to_string_pretty(&all)? + "\n",
                    false => config::table(&all),
                })?)
            }
            Command::Api | Command::Worker | Command::Beat => Ok(()),
        }
    })
}

/// Prints what may be long: whoever reads it may have seen enough before its end.
fn print(text: &str) -> io::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}

async fn up<S: Clone + Send + Sync + 'static>(
    application: &Application<S>,
    settings: &Settings,
) -> anyhow::Result<()> {
    check(application, settings)?;
    prepare_and_supervise(application, settings, &Asked::by_signals()?).await
}

/// What can be known to be wrong before anything is started.
fn check<S: Clone + Send + Sync + 'static>(
    application: &Application<S>,
    settings: &Settings,
) -> anyhow::Result<()> {
    settings.check_all(application.name, !application.migrations.is_empty())?;
    roles::registry(application)?;
    roles::timetable(application)?;
    Ok(())
}

/// Redis reachable → tables → roles.
async fn prepare_and_supervise<S>(
    application: &Application<S>,
    settings: &Settings,
    asked: &Asked,
) -> anyhow::Result<()> {
    let broker = settings.broker()?;
    let ready = async {
        // Its connection ends with it: from then on the roles have theirs.
        let client = Client::open(&broker, "supervisor")?;
        roles::trusted(&client, settings).await?;
        if !application.migrations.is_empty() {
            migrate_when_there(application, settings).await?;
        }
        anyhow::Ok(())
    };
    match asked.stop.run_until_cancelled(ready).await {
        Some(prepared) => prepared?,
        None => return Ok(()),
    }
    supervise(settings, asked).await?;
    info!("everything has ended");
    Ok(())
}

async fn migrate_when_there<S>(
    application: &Application<S>,
    settings: &Settings,
) -> anyhow::Result<()> {
    loop {
        match verbs::migrate(application, settings).await {
            Ok(taken) => {
                info!(taken, "the tables are up to date");
                return Ok(());
            }
            Err(error) if is_away(&error) => {
                let said = format!("{error:#}");
                let hint = if said.contains(OF_A_POOLER) { LOGIN_HINT } else { "" };
                warn!(error = said, "waiting for postgres{hint}; trying again in {START_RETRY:?}");
                sleep(START_RETRY).await;
            }
            Err(error) => return Err(error.context("the tables cannot be brought up to date")),
        }
    }
}

fn is_away(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<umbel_store::MigrationError>()
        .is_some_and(umbel_store::MigrationError::is_transient)
}

/// As `up`, with private services; prints where all of it is.
async fn dev<S: Clone + Send + Sync + 'static>(
    application: &Application<S>,
    mut settings: Settings,
    args: &DevArgs,
) -> anyhow::Result<()> {
    let folder = Folder::open(&args.data)?;
    let held = hold_address(&settings)?;
    // The API keeps its port when it is started again.
    settings.port = held.local_addr()?.port();
    let wants = Wants {
        redis: settings.redis_url.is_none(),
        postgres: settings.database.database_url.is_none() && !application.migrations.is_empty(),
    };
    let asked = Asked::by_signals()?;
    let Some(started) = asked.stop.run_until_cancelled(Services::start(&folder, wants)).await
    else {
        return Ok(());
    };
    let mut services = started?;
    // Only what is private is told: an address that was given may hold a password.
    let socket = services.redis_socket().map(|path| path.display().to_string());
    let private = [
        ("REDIS_SOCKET", socket),
        ("REDIS_URL", services.redis_url().map(str::to_owned)),
        ("DATABASE_URL", services.database_url().map(str::to_owned)),
    ];
    if let Some(url) = services.redis_url() {
        settings.redis_url = Some(SecretString::from(url));
    }
    if let Some(url) = services.database_url() {
        settings.database.database_url = Some(SecretString::from(url));
        // One from the environment leads past a pooler to a database that is not this one.
        settings.database.database_direct_url = None;
    }
    settings.database.environment.get_or_insert(Environment::Development);
    if settings.jwt_secret.is_none() {
        settings.jwt_secret = Some(folder.secret("jwt")?);
    }
    drop(held);
    let lost = std::cell::OnceCell::new();
    let ended = {
        let roles = async {
            check(application, &settings)?;
            prepare_and_supervise(application, &settings, &asked).await
        };
        let told = async {
            tell_where(&settings, &private).await?;
            std::future::pending().await
        };
        let stopping = asked.stop.clone();
        let failed = async {
            let sentence = services.failed().await;
            error!("{sentence}; stopping");
            let _ = lost.set(sentence);
            stopping.cancel();
            std::future::pending::<anyhow::Result<()>>().await
        };
        tokio::select! {
            ended = roles => ended,
            told = told => told,
            failed = failed => failed,
        }
    };
    services.stop().await;
    match lost.into_inner() {
        Some(sentence) => ended.and(Err(anyhow::anyhow!(sentence))),
        None => ended,
    }
}

/// Takes the address of the API until its process is about to start: one that somebody else has
/// would later be told as ours, because somebody answers there.
fn hold_address(settings: &Settings) -> Result<StdListener, SettingsError> {
    let addr = settings.addr()?;
    StdListener::bind(addr).map_err(|error| {
        SettingsError(format!(
            "cannot listen on {addr} ({error}): HOST and PORT must name a free address; PORT=0 \
             takes a free port"
        ))
    })
}

/// Prints, for people and scripts, where everything is, once the API listens.
async fn tell_where(settings: &Settings, private: &[(&str, Option<String>)]) -> anyhow::Result<()> {
    let addr = settings.addr()?;
    while TcpStream::connect(addr).await.is_err() {
        sleep(READY_LOOK).await;
    }
    let token = TokenArgs {
        subject: "developer".to_owned(),
        scopes: Scopes::ADMIN,
        tasks: None,
        ttl: DEV_TOKEN_TTL,
        output: Output { json: false },
    };
    let token = verbs::token(settings, &token).context("no token can be made")?;
    println!("umbel dev is ready");
    println!("API_URL=http://{addr}");
    for (name, value) in private {
        if let Some(value) = value {
            println!("{name}={value}");
        }
    }
    println!("TOKEN={token}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_restart_mends_ends_with_2_and_what_one_may_mend_with_1() {
        let pattern = umbel_beat::cron("never").unwrap_err();
        let twice = TimetableError::Twice { entry: "nightly".to_owned() };
        for error in [
            anyhow::Error::from(SettingsError::new("PORT")).context("the application cannot start"),
            anyhow::Error::from(twice).context("the timetable of this application cannot be made"),
            anyhow::Error::from(pattern),
            anyhow::Error::from(SuperviseError::Refused { role: "worker" }),
            anyhow::Error::from(WorkerError::NoQueues),
        ] {
            assert_eq!(exit_code(&error), 2, "{error:#}");
        }
        for (error, code) in [
            (anyhow::anyhow!("no more files"), 1),
            (SuperviseError::NeverReady { role: "worker", deaths: 10 }.into(), 1),
            (SuperviseError::AtOnce.into(), 143),
        ] {
            assert_eq!(exit_code(&error), code, "{error:#}");
        }
    }
}
