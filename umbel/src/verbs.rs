//! What an operator does by hand: migrate, enqueue, look, make a token.

use anyhow::{Context, anyhow, bail};
use chrono::Utc;
use serde_json::{Value, json};
use umbel_api::{ApiError, Grant};
use umbel_broker::{Client, NewTask, TaskRecord, When};
use umbel_proto::{ArgsError, TaskId, codec};
use umbel_store::Db;

use crate::{
    Application,
    cli::{EnqueueArgs, TokenArgs},
    settings::{Settings, SettingsError},
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

/// Enqueues one task of the catalogue, whether or not it may be enqueued over HTTP.
pub(crate) async fn enqueue<S: Clone + Send + Sync + 'static>(
    application: &Application<S>,
    settings: &Settings,
    args: &EnqueueArgs,
) -> anyhow::Result<TaskId> {
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
    new.call.when = args.delay.map(When::In);
    new.call.priority = args.priority;
    new.call.idempotency_key = args.idempotency_key.clone();
    Ok(Client::open(&settings.broker()?, "cli")?.submit(new).await?.id)
}

/// What is known of a task, as JSON.
pub(crate) async fn status(settings: &Settings, id: &TaskId) -> anyhow::Result<String> {
    let client = Client::open(&settings.broker()?, "cli")?;
    let record = client.task(id).await?.with_context(|| {
        format!("nothing is known of {id}: it never existed, its record has expired, or it is untracked and has not ended")
    })?;
    Ok(serde_json::to_string_pretty(&shown(record)?)?)
}

fn shown(record: TaskRecord) -> anyhow::Result<Value> {
    let result = match &record.result {
        Some(packed) => codec::decode(packed)?,
        None => Value::Null,
    };
    let TaskRecord { id, task, state, queue, attempt, max_attempts, .. } = record;
    Ok(json!({
        "id": id,
        "task": task,
        "state": state,
        "queue": queue,
        "attempt": attempt,
        "max_attempts": max_attempts,
        "enqueued": record.enqueued,
        "started": record.started,
        "finished": record.finished,
        "worker": record.worker,
        "error": record.error,
        "result": result,
    }))
}

/// A token for the API.
pub(crate) fn token(settings: &Settings, args: &TokenArgs) -> anyhow::Result<String> {
    let jwt = settings.jwt()?;
    if jwt.secret.is_none() {
        // The identity provider makes those of published keys.
        return Err(SettingsError(ApiError::NoSecret.to_string()).into());
    }
    let grant = Grant::new(&args.subject).scopes(args.scopes).ttl(args.ttl);
    let grant = args.tasks.iter().fold(grant, |grant, names| grant.tasks(names.clone()));
    Ok(grant.sign(&jwt, Utc::now())?)
}
