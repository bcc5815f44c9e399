//! The reason for the store: behind a transaction pooler, every client gets its own answers.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use umbel_store::{Bind, Db, StoreError};

use super::House;

const CLIENTS: i64 = 20;
const STATEMENTS: i64 = 50;

#[derive(Debug, PartialEq, Clone, Copy, Serialize, Deserialize)]
struct Tag {
    client: i64,
    n: i64,
}

#[derive(Debug, Default, PartialEq)]
struct Tally {
    right: i64,
    wrong: i64,
    errors: Vec<String>,
}

const ALL_RIGHT: Tally = Tally { right: CLIENTS * STATEMENTS, wrong: 0, errors: Vec::new() };

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.right += other.right;
        self.wrong += other.wrong;
        self.errors.extend(other.errors);
    }
}

/// Lets twenty clients, each with a text of SQL of its own, ask fifty times for their own tag.
async fn tally<A>(ask: impl Fn(i64, Tag) -> A + Clone + Send + 'static) -> Tally
where
    A: Future<Output = Result<Option<Tag>, String>> + Send + 'static,
{
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let ask = ask.clone();
        clients.spawn(async move {
            let mut tally = Tally::default();
            for n in 0..STATEMENTS {
                let tag = Tag { client, n };
                match ask(client, tag).await {
                    Ok(answer) if answer == Some(tag) => tally.right += 1,
                    Ok(_) => tally.wrong += 1,
                    Err(error) => tally.errors.push(error),
                }
            }
            tally
        });
    }
    let mut sum = Tally::default();
    while let Some(tally) = clients.join_next().await {
        sum += tally.expect("no client panics");
    }
    sum
}

/// The text of each client, made once: `tag` says how this form spells a tag's two columns.
fn texts(tag: &str) -> &'static [&'static str] {
    let text = |client: i64| {
        let text =
            format!("select {client}::bigint as client, n from {tag} where client = {client}");
        &*Box::leak(text.into_boxed_str())
    };
    Box::leak((0..CLIENTS).map(text).collect::<Vec<_>>().into_boxed_slice())
}

fn clients(house: &House) -> &'static [Db] {
    Box::leak((0..CLIENTS).map(|_| house.client()).collect::<Vec<_>>().into_boxed_slice())
}

const FORM_A: &str = "jsonb_to_record({params}) as tag(client bigint, n bigint)";
const FORM_B: &str = "(select $1::bigint as client, $2::bigint as n) as tag";

#[tokio::test(flavor = "multi_thread")]
async fn form_a_gives_every_client_its_own_answer() {
    let house = House::start();
    let (clients, texts) = (clients(&house), texts(FORM_A));
    let tally = tally(move |client, tag| async move {
        let client = client as usize;
        clients[client].row(texts[client], &tag).await.map_err(|error| super::told(&error))
    });
    assert_eq!(tally.await, ALL_RIGHT);
}

#[tokio::test(flavor = "multi_thread")]
async fn form_a_in_a_transaction_gives_every_client_its_own_answer() {
    let house = House::start();
    let (clients, texts) = (clients(&house), texts(FORM_A));
    let tally = tally(move |client, tag| async move {
        let client = client as usize;
        let answer = clients[client].transaction(async |tx| tx.row(texts[client], &tag).await);
        answer.await.map_err(|error: StoreError| super::told(&error))
    });
    assert_eq!(tally.await, ALL_RIGHT);
}

#[tokio::test(flavor = "multi_thread")]
async fn form_b_gives_every_client_its_own_answer() {
    let house = House::start();
    let (clients, texts) = (clients(&house), texts(FORM_B));
    let tally = tally(move |client, tag| async move {
        let binds = [Bind::Int(tag.client), Bind::Int(tag.n)];
        let client = client as usize;
        let answer =
            clients[client].transaction(async |tx| tx.bound::<Tag>(texts[client], &binds).await);
        let mut rows = answer.await.map_err(|error: StoreError| super::told(&error))?;
        Ok(rows.pop())
    });
    assert_eq!(tally.await, ALL_RIGHT);
}

/// The control: shows that this pooler would tell on a store that asked as sqlx asks by itself.
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "it is the danger that the store keeps away")]
async fn an_ordinary_query_gets_the_answers_of_others() {
    let house = House::start();
    let options: sqlx::postgres::PgConnectOptions =
        house.pooler.url(&house.database).parse().expect("an address");
    let options = options.statement_cache_capacity(0).extra_float_digits(None);
    let pools: &[_] = Box::leak(
        (0..CLIENTS)
            .map(|_| {
                let pool = sqlx::postgres::PgPoolOptions::new().max_connections(1);
                pool.connect_lazy_with(options.clone())
            })
            .collect::<Vec<_>>()
            .into_boxed_slice(),
    );
    let texts = texts(FORM_B);
    let tally = tally(move |client, tag| async move {
        let client = client as usize;
        sqlx::query_as::<_, (i64, i64)>(texts[client])
            .persistent(false)
            .bind(tag.client)
            .bind(tag.n)
            .fetch_optional(&pools[client])
            .await
            .map(|row| row.map(|(client, n)| Tag { client, n }))
            .map_err(|error| error.to_string())
    });
    let tally = tally.await;
    assert!(tally.right < CLIENTS * STATEMENTS, "the pooler mixes nothing: {tally:?}");
}
