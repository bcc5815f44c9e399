//! The fetcher against those who would misuse it: addresses that lead inside, a name server that
//! changes its mind, hosts that never come to an end.

mod endless;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::future::BoxFuture;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
};

use self::endless::{Endless, HEAD};
use super::{tests::read, *};

/// Every one of them must be refused before anything is connected to. The names lead where
/// [`NAMES`] says.
const HOSTILE: [&str; 104] = [
    // Other protocols than the web's.
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://example.com:70/_GET",
    "dict://example.com:11211/stats",
    "data:text/html,<title>x</title>",
    "javascript:alert(1)",
    "ws://example.com/",
    "unix:/run/redis.sock",
    "jar:http://example.com/a!/b",
    "ldap://example.com/",
    // Names and passwords, and hosts that hide behind them.
    "http://ada@example.com/",
    "http://:secret@example.com/",
    "http://ada:secret@example.com/",
    "http://example.com@127.0.0.1/",
    "http://example.com:80@127.0.0.1/",
    "http://example.com%2f@127.0.0.1/",
    "http://127.0.0.1%00@example.com/",
    // Ports of other services.
    "http://example.com:22/",
    "http://example.com:25/",
    "http://example.com:6379/",
    "http://example.com:5432/",
    "http://example.com:8080/",
    "https://example.com:9200/",
    "http://example.com:0/",
    "http://example.com:65535/",
    "http://127.0.0.1:6379/",
    // This machine.
    "http://127.0.0.1/",
    "https://127.0.0.1/",
    "http://127.255.255.254/",
    "http://0.0.0.0/",
    "http://0/",
    "http://localhost/",
    "http://LOCALHOST/",
    "http://localhost./",
    "http://app.localhost/",
    // This machine, in other numbers.
    "http://2130706433/",
    "http://017700000001/",
    "http://0x7f000001/",
    "http://0x7f.0x0.0x0.0x1/",
    "http://0177.0.0.1/",
    "http://0177.0.0.01/",
    "http://127.1/",
    "http://127.0.1/",
    "http://127.0.0.1./",
    "http://%31%32%37.0.0.1/",
    "http:\\\\127.0.0.1\\",
    "http:127.0.0.1/",
    "http:////127.0.0.1/",
    "http://①②⑦.⓪.⓪.①/",
    "http://１２７.０.０.１/",
    "http://127。0。0。1/",
    "http://127｡0｡0｡1/",
    "http://1\u{ad}27.0.0.1/",
    "http://127.0.0.1\t/",
    "http://127.0\n.0.1/",
    "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
    "http://ｌｏｃａｌｈｏｓｔ/",
    // Networks of others' machines.
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://172.31.255.255/",
    "http://192.168.0.1/",
    "http://100.64.0.1/",
    "http://100.127.255.254/",
    "http://198.18.0.1/",
    "http://192.0.0.8/",
    "http://192.0.2.1/",
    "http://203.0.113.7/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    // The clouds' metadata.
    "http://169.254.169.254/latest/meta-data/",
    "http://2852039166/latest/meta-data/",
    "http://0xa9fea9fe/",
    "http://0251.0376.0251.0376/",
    "http://169.254.170.2/v2/credentials",
    "http://168.63.129.16/machine",
    "http://100.100.100.200/latest/meta-data/",
    "http://192.0.0.192/opc/v1/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://metadata.google.internal/",
    "http://instance-data/",
    // IPv6, and IPv4 inside of it.
    "http://[::]/",
    "http://[::1]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[::127.0.0.1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::ffff:0:127.0.0.1]/",
    "http://[64:ff9b::127.0.0.1]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[64:ff9b:1::7f00:1]/",
    "http://[2002:7f00:1::1]/",
    "http://[2002:a9fe:a9fe::]/",
    "http://[2001:0:7f00:1::]/",
    "http://[fe80::1]/",
    "http://[fec0::1]/",
    "http://[fc00::1]/",
    "http://[fdff::1]/",
    "http://[ff02::1]/",
    "http://[2001:db8::1]/",
    // Names that lead inside.
    "http://127.0.0.1.nip.example/",
    "http://inside.example/",
    "http://half-inside.example/",
    "http://mapped.example/",
    "http://redis/",
];

/// Where names lead. The first of a name's addresses is public where it can be.
const NAMES: [(&str, &[&str]); 12] = [
    ("localhost", &["127.0.0.1", "::1"]),
    ("localhost.", &["127.0.0.1"]),
    ("app.localhost", &["::1"]),
    ("metadata.google.internal", &["169.254.169.254"]),
    ("instance-data", &["169.254.169.254"]),
    ("127.0.0.1.nip.example", &["127.0.0.1"]),
    ("inside.example", &["10.0.0.7"]),
    ("half-inside.example", &["2000::1", "2000::2", "192.168.0.1"]),
    ("mapped.example", &["::ffff:169.254.169.254"]),
    ("redis", &["172.18.0.2"]),
    ("example.com", &["2000::1"]),
    ("public.example", &["2000::1"]),
];

/// Answers as a table says.
#[derive(Debug)]
struct Table(HashMap<&'static str, Vec<IpAddr>>);

impl Table {
    fn new() -> Self {
        let parse = |ips: &[&str]| ips.iter().map(|ip| ip.parse().unwrap()).collect();
        Self(NAMES.iter().map(|(name, ips)| (*name, parse(ips))).collect())
    }
}

impl Lookup for Table {
    fn lookup(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let found = self.0.get(name.as_str()).cloned();
        Box::pin(async move { found.ok_or(io::ErrorKind::NotFound.into()) })
    }
}

fn settings() -> FetchSettings {
    FetchSettings { timeout: Duration::from_secs(2), ..FetchSettings::default() }
}

fn fetcher_with(settings: FetchSettings, lookup: impl Lookup) -> Fetcher {
    // An error means that another test of this process was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Fetcher::with_lookup(settings, Arc::new(lookup)).unwrap()
}

async fn fetch(fetcher: &Fetcher, url: &str) -> Result<FetchedPage, FetchError> {
    read(fetcher, &url.parse().unwrap(), Reading::Whole).await
}

#[tokio::test]
async fn no_hostile_address_is_fetched_or_handed_to_others() {
    let fetcher = fetcher_with(settings(), Table::new());
    for text in HOSTILE {
        // What is no address at all never becomes a task.
        let Ok(url) = text.parse::<Url>() else { continue };
        let error = read(&fetcher, &url, Reading::Whole).await.unwrap_err();
        assert!(matches!(error, FetchError::Refused(_)) && error.is_fatal(), "{text}: {error:?}");
        assert_eq!(error.class(), "refused");
        let error = fetcher.check_target(&url).await.unwrap_err();
        assert!(matches!(error, FetchError::Refused(_)), "{text}: {error:?}");
    }
    let parsed = HOSTILE.iter().filter(|text| text.parse::<Url>().is_ok()).count();
    assert!(parsed >= 90, "only {parsed} are addresses");
    // The table would prove nothing if its names were refused for themselves.
    let public = "http://public.example/".parse().unwrap();
    fetcher.check_target(&public).await.unwrap();
    let unknown = fetcher.check_target(&"http://no.example/".parse().unwrap()).await.unwrap_err();
    assert!(matches!(unknown, FetchError::Unresolved(_)) && !unknown.is_fatal(), "{unknown:?}");
}

/// A name server on loopback that gives one answer after the other, and the last one for ever.
struct NameServer {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl NameServer {
    async fn start(answers: Vec<IpAddr>) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        tokio::spawn(async move {
            let mut question = [0; 512];
            loop {
                let (length, from) = socket.recv_from(&mut question).await.unwrap();
                let number = count.fetch_add(1, Ordering::SeqCst);
                let answer = answers[number.min(answers.len() - 1)];
                let answer = answer_to(&question[..length], answer);
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        Self { address, asked }
    }
}

/// A response of DNS: the question, and one record, valid for no time at all.
fn answer_to(question: &[u8], ip: IpAddr) -> Vec<u8> {
    let (kind, data) = match ip {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (28, ip.octets().to_vec()),
    };
    let header = [&question[..2], &[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]].concat();
    let record = [&[0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 0, 0, data.len() as u8][..], &data].concat();
    [&header[..], &question[12..], &record].concat()
}

/// Asks a name server, each time anew.
#[derive(Debug)]
struct Stub(SocketAddr);

impl Lookup for Stub {
    fn lookup(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let server = self.0;
        Box::pin(async move {
            let socket = UdpSocket::bind("127.0.0.1:0").await?;
            let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            for label in name.split('.') {
                question.push(label.len() as u8);
                question.extend(label.as_bytes());
            }
            question.extend([0, 0, 255, 0, 1]);
            socket.send_to(&question, server).await?;
            let mut answer = [0; 512];
            let length = socket.recv(&mut answer).await?;
            let data = &answer[question.len() + 12..length];
            Ok(vec![match data.len() {
                4 => Ipv4Addr::from(<[u8; 4]>::try_from(data).unwrap()).into(),
                _ => Ipv6Addr::from(<[u8; 16]>::try_from(data).unwrap()).into(),
            }])
        })
    }
}

/// A listener on loopback that counts who comes.
async fn counting() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, came) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = came.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            let _ = stream.read(&mut [0; 1024]).await;
            let page =
                "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 7\r\n\r\n<title>";
            // Whoever came may be gone again.
            let _ = stream.write_all(page.as_bytes()).await;
        }
    });
    (address, came)
}

#[tokio::test]
async fn a_name_that_changes_its_mind_after_it_was_checked_reaches_nothing() {
    let (inside, came) = counting().await;
    // No route leads to that part of the open internet: the connection fails or is given up.
    let public = "2000::1".parse().unwrap();
    let server = NameServer::start(vec![public, inside.ip()]).await;
    let settings = FetchSettings {
        ports: vec![inside.port()],
        timeout: Duration::from_millis(500),
        ..settings()
    };
    let fetcher = fetcher_with(settings.clone(), Stub(server.address));
    let url = format!("http://rebind.example:{}/", inside.port());

    // The name is public when it is checked, and leads inside for everybody who asks again.
    let error = fetch(&fetcher, &url).await.unwrap_err();
    let missed = matches!(error, FetchError::Unreachable(_) | FetchError::TimedOut { .. });
    assert!(missed, "{error:?}");
    assert_eq!(server.asked.load(Ordering::SeqCst), 1, "the checked address is what is used");
    // From now on it leads inside when it is checked.
    let error = fetch(&fetcher, &url).await.unwrap_err();
    assert!(matches!(error, FetchError::Refused(Refusal::NotPublic(_))), "{error:?}");
    assert_eq!(came.load(Ordering::SeqCst), 0);

    // That the listener would have been reached shows whoever does not check.
    let allowed_private = vec!["rebind.example".parse().unwrap()];
    let careless = FetchSettings { allowed_private, ..settings };
    let private = Client::builder().no_proxy().resolve("rebind.example", inside).build().unwrap();
    let careless = Fetcher { private, ..fetcher_with(careless, Stub(server.address)) };
    fetch(&careless, &url).await.unwrap();
    assert_eq!(came.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_proxy_of_the_environment_is_not_asked() {
    // The variable is of this process; the child of a test is where it can be set.
    let (proxy, came) = counting().await;
    let out = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "fetch::hostile::a_public_name_is_tried_without_a_proxy"])
        .envs(["HTTP_PROXY", "http_proxy", "ALL_PROXY"].map(|n| (n, format!("http://{proxy}"))))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    assert!(String::from_utf8_lossy(&out.stdout).contains("1 passed"));
    assert_eq!(came.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_public_name_is_tried_without_a_proxy() {
    let settings = FetchSettings { timeout: Duration::from_millis(500), ..settings() };
    let error = fetch(&fetcher_with(settings, Table::new()), "http://public.example/").await;
    assert!(matches!(error, Err(FetchError::Unreachable(_) | FetchError::TimedOut { .. })));
}

#[tokio::test]
async fn a_hop_to_another_origin_knows_nothing_of_the_one_before() {
    let seen = Arc::new(Mutex::new(String::new()));
    let heard = seen.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let second = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let length = stream.read(&mut request).await.unwrap();
        *heard.lock().unwrap() = String::from_utf8_lossy(&request[..length]).to_ascii_lowercase();
        let page = format!("{HEAD}content-length: 7\r\n\r\n<title>");
        stream.write_all(page.as_bytes()).await.unwrap();
    });
    let leave = format!(
        "HTTP/1.1 302 Found\r\nlocation: http://{second}/there\r\nset-cookie: sid=1\r\n\
         www-authenticate: Basic\r\ncontent-length: 0\r\n\r\n"
    );
    let first = Endless::start(&leave, "", Duration::from_secs(60), settings()).await;
    let mut settings = FetchSettings::clone(&first.fetcher.settings);
    settings.allowed_private.push(second.to_string().parse().unwrap());
    let fetcher = fetcher_with(settings, SystemLookup);
    fetch(&fetcher, &format!("{}?token=hush", first.url)).await.unwrap();
    let request = seen.lock().unwrap().clone();
    assert!(request.starts_with("get /there http/1.1\r\n"), "{request}");
    for word in ["authorization", "cookie", "referer", "hush"] {
        assert!(!request.contains(word), "{word} in {request}");
    }
}
