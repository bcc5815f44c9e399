//! What an operator does by hand: migrate, enqueue, look, make a token.

use anyhow::{Context, anyhow, bail};
use chrono::Utc;
use serde_json::{Value, json};
use umbel_api::{ApiError, Grant};
use umbel_broker::{Client, NewTask, TaskHandle, When};
use umbel_proto::{ArgsError, TaskId};
use umbel_store::Db;

use crate::{
    Application,
    cli::{EnqueueArgs, TokenArgs},
    settings::{Settings, SettingsError},
    terminal::{record_json, spinning, unknown},
};

/// Makes or changes the tables; prints how many steps were taken.
pub(crate) async fn migrate<S>(
    application: &Application<S>,
    settings: &Settings,
) -> anyhow::Result<usize> {
    let store = settings.database.store_direct()?.ok_or_else(|| {
        SettingsError("DATABASE_URL must be set: there is no database to change".to_owned())
    })?;
    let db = Db::open(&store)?;
    let taken = db.migrate(application.name, application.migrations).await?;
    db.close().await;
    Ok(taken)
}

/// Enqueues one task of the catalogue, whether or not it may be enqueued over HTTP; prints its id, and
/// its result where that is waited for.
pub(crate) async fn enqueue<S: Clone + Send + Sync + 'static>(
    application: &Application<S>,
    settings: &Settings,
    args: &EnqueueArgs,
) -> anyhow::Result<()> {
    let catalog = (application.registry)()?.catalog();
    let Some(entry) = catalog.get(&args.task) else {
        let known: Vec<&str> = catalog.iter().map(|entry| entry.name.as_str()).collect();
        bail!("there is no task `{}`; there are: {}", args.task, known.join(", "));
    };
    let value: Value = serde_json::from_str(&args.args).context("the arguments are not JSON")?;
    let packed = entry.accept(value).map_err(|error| match &error {
        ArgsError::Field { field, reason } if !field.is_empty() => {
            anyhow!("argument `{field}`: {reason}")
        }
        _ => anyhow::Error::new(error),
    })?;
    let mut new = NewTask::from_entry(entry, packed)?;
    new.call.tracked = true;
    new.call.when = args.delay.map(When::In).or(args.at.map(When::At));
    new.call.expires = args.expires.map(When::In);
    if let Some(queue) = &args.queue {
        new.queue = queue.clone();
    }
    new.call.priority = args.priority;
    new.call.idempotency_key = args.idempotency_key.clone();
    let client = Client::open(&settings.broker()?, "cli")?;
    let id = client.submit(new).await?.id;
    let Some(longest) = args.wait else {
        return args.output.print(&json!({"id": id}), || id.to_string());
    };
    // At once: what it waits for may never come.
    if !args.output.json {
        println!("{id}");
    }
    let handle = TaskHandle::<Value>::new(client, id.clone());
    let result = spinning("waiting", handle.wait(longest)).await?;
    let text = serde_json::to_string_pretty(&result)?;
    args.output.print(&json!({"id": id, "result": result}), || text)
}

/// What is known of a task, as JSON.
pub(crate) async fn status(settings: &Settings, id: &TaskId) -> anyhow::Result<String> {
    let client = Client::open(&settings.broker()?, "cli")?;
    let record = client.task(id).await?.with_context(|| unknown(id))?;
    Ok(serde_json::to_string_pretty(&record_json(&record)?)?)
}

/// A token for the API.
pub(crate) fn token(settings: &Settings, args: &TokenArgs) -> anyhow::Result<String> {
    let jwt = settings.jwt()?;
    if jwt.secret.is_none() {
        // The identity provider makes those of published keys.
        return Err(SettingsError(ApiError::NoSecret.to_string()).into());
    }
    let grant = Grant::new(&args.subject).scopes(args.scopes.clone()).ttl(args.ttl);
    let grant = args.tasks.iter().fold(grant, |grant, names| grant.tasks(names.clone()));
    Ok(grant.sign(&jwt, Utc::now())?)
}
