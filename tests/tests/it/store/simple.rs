//! What goes over the wire: the simple protocol, whatever the address asks for, and nothing else.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use umbel_store::{Db, StoreError, StoreSettings};

use super::House;

/// The messages that clients send: the kinds of all, and the texts of queries.
#[derive(Debug, Default)]
struct Heard {
    kinds: BTreeSet<char>,
    queries: Vec<String>,
}

/// Listens between a client and a server. The server is spoken to without TLS.
async fn listen_in(server: u16) -> (u16, Arc<Mutex<Heard>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard: Arc<Mutex<Heard>> = Arc::default();
    let note = heard.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await.unwrap();
            tokio::spawn(pass(client, server, note.clone()));
        }
    });
    (port, heard)
}

async fn pass(client: TcpStream, server: TcpStream, heard: Arc<Mutex<Heard>>) -> Option<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    let mut is_first = true;
    loop {
        // The first message has no kind: it names the user and the database.
        let kind = if is_first { None } else { Some(from_client.read_u8().await.ok()?) };
        is_first = false;
        let length = from_client.read_u32().await.ok()?;
        let mut body = vec![0; length as usize - 4];
        from_client.read_exact(&mut body).await.ok()?;
        if let Some(kind) = kind {
            let mut heard = heard.lock().unwrap();
            heard.kinds.insert(char::from(kind));
            if kind == b'Q' {
                heard.queries.push(String::from_utf8_lossy(&body).into_owned());
            }
        }
        let mut message: Vec<u8> = kind.into_iter().collect();
        message.extend(length.to_be_bytes());
        message.extend(body);
        to_server.write_all(&message).await.ok()?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_is_one_message_of_the_simple_protocol() {
    let house = House::start();
    house.migrated_client().await.execute("create table pages (url text)", &()).await.unwrap();
    for asked in ["", "&raw_sql=true", "&no_prepare=true", "&raw_sql=true&statement_cache_size=0"] {
        let (port, heard) = listen_in(house.pooler.port()).await;
        let url = format!(
            "postgres://postgres@127.0.0.1:{port}/{}?sslmode=disable{asked}",
            house.database.name()
        );
        let db = Db::open(&StoreSettings::new(url)).unwrap();
        let given = json!({ "url": "https://example.com/?a=';--" });
        let add = "insert into pages select {params}->>'url'";
        db.execute(add, &given).await.unwrap();
        let read = "select {params}->>'url' as url";
        let rows: Vec<Value> = db.rows(read, &given).await.unwrap();
        assert_eq!(rows, std::slice::from_ref(&given));
        let in_tx: Result<u64, StoreError> =
            db.transaction(async |tx| tx.execute(add, &given).await).await;
        assert_eq!(in_tx.unwrap(), 1);
        let task = "default-0191f3c4-7b6a-7c3e-9d4f-0123456789ab".parse().unwrap();
        let once: Result<u32, StoreError> = db.once(&task, asked, async |_| Ok(7)).await;
        assert_eq!(once.unwrap(), 7);
        db.ping().await.unwrap();
        db.close().await;
        let heard = heard.lock().unwrap();
        // Q: a query, S: is the line alive, X: farewell. P would be a statement that is prepared.
        assert!(
            heard.kinds.is_subset(&BTreeSet::from(['Q', 'S', 'X'])),
            "{asked}: {:?}",
            heard.kinds
        );
        assert!(heard.queries.len() >= 4, "{:?}", heard.queries);
        assert!(
            heard.queries.iter().all(|query| !query.contains("';--")),
            "sent as what it is not"
        );
    }
}
