//! The cost of the hot functions and of a whole request, in instructions and allocations, held against
//! `benches/budget.txt`. Fails when something costs more.
//!
//!     cargo bench --bench budget                 compares
//!     cargo bench --bench budget -- --update     writes the budget anew
//!
//! Counts come from callgrind, so neither the machine's load nor its clock matters. Each subject runs
//! N and 2 N times, and the difference is what N cost: starting up and setting up cancel out. The hot
//! functions run in this program, the whole request in the real one, between a client and a store
//! that are not counted. Needs valgrind.

#![allow(clippy::panic, clippy::indexing_slicing, reason = "fails by panics, like a test")]

mod subject;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::hint::black_box;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use kit::faulty::Faulty;
use kit::raw::Raw;
use kit::{PUBLIC, Program, Surroundings};
use subject::{PRIVATE, now};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use yatagarasu::internals::{Admitted, Prefix, Query, RouteTable, Unsigned, admit, signed_request};

/// The program's own, so that an allocation costs what it costs there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many more instructions than the budget are still within it: the hashes of a `HashMap`, and the
/// moments at which threads wake, differ from run to run. Of allocations not one more is.
const TOLERANCE: f64 = 0.03;

/// How long the program under callgrind may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

const PROGRAM: Program = Program::at(env!("CARGO_BIN_EXE_yatagarasu"));

const BUDGET: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/budget.txt");

/// A name, how many times to do it, and what does it so many times.
type Function = (&'static str, usize, fn(usize));

const FUNCTIONS: [Function; 7] = [
    ("sign", 1_000, sign),
    // Many, because a large table does not take the same work to make in each of two processes.
    ("find-10", 30_000, |times| find(10, times)),
    ("find-10000", 30_000, |times| find(10_000, times)),
    ("authorize-hs256", 1_000, |times| authorize(1, times)),
    ("authorize-hs256-new", NEW_TOKENS / 2, |times| authorize(NEW_TOKENS, times)),
    ("admit-hs256", 1_000, |times| decide(PRIVATE, times)),
    ("signed-request", 1_000, build),
];

/// As many as one process needs, and made in each.
const NEW_TOKENS: usize = 2_000;

/// Whole requests on one kept-alive connection.
const REQUESTS: [(&str, &str); 2] = [("request", PUBLIC), ("request-hs256", PRIVATE)];
const REQUEST_RUNS: usize = 1_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name, times] = arguments.as_slice()
        && flag == "--run"
    {
        let (.., function) = FUNCTIONS.iter().find(|(known, ..)| known == name).expect("a known function");
        function(times.parse().expect("a number"));
        return ExitCode::SUCCESS;
    }
    let update = arguments.iter().any(|argument| argument == "--update");
    let functions = FUNCTIONS.map(|(name, times, _)| (name, per_run(times, |runs| function(name, runs))));
    let runtime = Runtime::new().expect("a runtime");
    let measure = |auth, runs| runtime.block_on(requests(auth, runs));
    let requests = REQUESTS.map(|(name, auth)| (name, per_run(REQUEST_RUNS, |runs| measure(auth, runs))));
    let measured: Vec<_> = functions.into_iter().chain(requests).collect();
    if update {
        fs::write(BUDGET, written(&measured)).expect("the budget can be written");
    }
    compare(&measured, &read_budget())
}

// The hot functions.

fn sign(times: usize) {
    let generation = subject::generation(1, PUBLIC);
    let bucket = &generation.config.buckets[0];
    let path = "/tenant-0/2024/summer/cat%200.jpg";
    for _ in 0..times {
        let request = Unsigned { method: "GET", path, query: "", host: "127.0.0.1:9000" };
        let signer = bucket.identity.signer(now()).expect("keys in the file");
        black_box(signer.sign(black_box(request), &bucket.region, now()));
    }
}

fn find(prefixes: usize, times: usize) {
    let prefix = |n| Prefix::parse(&format!("/tenants/t{n}")).expect("a valid prefix");
    let table = || (0..prefixes).map(|n| (prefix(n), n)).collect();
    // How the keys of one small table collide is a matter of luck, and of many not; so for few paths.
    let tables: Vec<RouteTable<usize>> = (0..(1_000 / prefixes).max(1)).map(|_| table()).collect();
    let step = (prefixes / 1_000).max(1);
    let paths: Vec<String> =
        (0..prefixes).step_by(step).map(|n| format!("/tenants/t{n}/2024/summer/cat.jpg")).collect();
    for n in 0..times {
        let table = &tables[n / paths.len() % tables.len()];
        black_box(table.find(black_box(&paths[n % paths.len()])));
    }
}

/// By turns with so many tokens.
fn authorize(tokens: usize, times: usize) {
    let generation = subject::generation(1, PRIVATE);
    let requests: Vec<_> =
        (0..tokens).map(|n| subject::request(0, Some(&subject::hs256_of(&format!("user-{n:04}"))))).collect();
    for n in 0..times {
        let headers = &requests[n % tokens].headers;
        assert!(
            black_box(subject::rule(&generation.config).authorize(headers, Query::default(), now())).is_ok()
        );
    }
}

fn decide(auth: &str, times: usize) {
    let generation = subject::generation(10, auth);
    let request = subject::request(7, Some(&subject::hs256()));
    for _ in 0..times {
        assert!(black_box(admit(&generation, black_box(&request), None, now())).is_ok());
    }
}

fn build(times: usize) {
    let generation = subject::generation(10, PUBLIC);
    let request = subject::request(7, None);
    let Ok(Admitted::Outright(admission)) = admit(&generation, &request, None, now()) else {
        panic!("not admitted");
    };
    for _ in 0..times {
        let signed = signed_request(black_box(&request), &admission, now());
        assert!(black_box(signed).is_ok());
    }
}

// Counting.

#[derive(Debug, Clone, Copy)]
struct Cost {
    instructions: f64,
    allocations: f64,
}

/// Measures N and 2 N runs.
fn per_run(runs: usize, measure: impl Fn(usize) -> Cost) -> Cost {
    let (once, twice) = (measure(runs), measure(2 * runs));
    let each = |once: f64, twice: f64| (twice - once) / runs as f64;
    Cost {
        instructions: each(once.instructions, twice.instructions),
        allocations: each(once.allocations, twice.allocations),
    }
}

/// The command that runs another one and writes its profile.
fn callgrind(profile: &Path) -> Vec<String> {
    let profile = format!("--callgrind-out-file={}", profile.display());
    ["valgrind", "--quiet", "--tool=callgrind", &profile].map(str::to_owned).to_vec()
}

fn function(name: &str, times: usize) -> Cost {
    let folder = tempfile::tempdir().expect("a folder");
    let profile = folder.path().join("callgrind.out");
    let words = callgrind(&profile);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stderr(Stdio::null()).arg(std::env::current_exe().expect("this program"));
    let status = command.args(["--run", name, &times.to_string()]).status();
    assert!(status.expect("valgrind is installed").success(), "`{name}` failed under valgrind");
    count(&profile)
}

/// The functions that allocate: those of mimalloc that Rust calls, and those that C code calls.
const ALLOCATING: [&str; 6] =
    ["mi_malloc_aligned", "mi_zalloc_aligned", "mi_realloc_aligned", "malloc", "calloc", "realloc"];

/// Reads what callgrind wrote ("Callgrind Format Specification", Valgrind manual).
fn count(profile: &Path) -> Cost {
    let text = fs::read_to_string(profile).expect("callgrind has written its profile");
    // A name stands once, beside its number.
    let mut names: HashMap<&str, &str> = HashMap::new();
    let (mut total, mut allocations, mut called) = (None, 0, "");
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("fn=").or_else(|| line.strip_prefix("cfn=")) {
            let (number, name) = name.split_once(' ').unwrap_or((name, ""));
            if !name.is_empty() {
                names.insert(number, name);
            }
            called = names.get(number).copied().unwrap_or_default();
        } else if let Some(calls) = line.strip_prefix("calls=") {
            let times = calls.split(' ').next().and_then(|times| times.parse::<u64>().ok());
            if ALLOCATING.contains(&called) {
                allocations += times.expect("a number of calls");
            }
        } else if let Some(sum) = line.strip_prefix("totals: ") {
            total = sum.trim().parse::<u64>().ok();
        }
    }
    Cost { instructions: total.expect("a total") as f64, allocations: allocations as f64 }
}

// A whole request.

async fn requests(auth: &str, times: usize) -> Cost {
    let store = Faulty::answering(object()).await;
    let config = subject::config(10, auth).server("threads: 1").each(|bucket| bucket.endpoint(&store.url()));
    let folder = tempfile::tempdir().expect("a folder");
    let profile = folder.path().join("callgrind.out");
    let surroundings = Surroundings { wrapper: callgrind(&profile), ..Surroundings::default() };
    let mut proxy = PROGRAM.spawn(&config, &surroundings);

    let mut client = connect(proxy.address).await;
    let token = format!("Bearer {}", subject::hs256());
    for _ in 0..times {
        let answer = client.ask("GET", "/tenants/t7/2024/summer/cat.jpg", &[("Authorization", &token)]).await;
        assert_eq!((answer.status, answer.body.len()), (200, OBJECT_BYTES), "{}", answer.head);
    }
    drop(client);
    proxy.signal("TERM");
    proxy.exit().await;
    count(&profile)
}

async fn connect(address: SocketAddr) -> Raw {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true).expect("a socket");
                return Raw(stream);
            }
            Err(error) => assert!(Instant::now() < deadline, "the proxy does not start: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

const OBJECT_BYTES: usize = 1024;

/// A store's answer with the object, to be sent in one packet.
fn object() -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nETag: \"9b2cf5\"\r\nContent-Type: image/jpeg\r\nContent-Length: {OBJECT_BYTES}\r\nLast-Modified: Wed, 15 Nov 2023 08:00:00 GMT\r\nServer: store\r\nx-amz-request-id: 4442587FB7D0A2F9\r\n\r\n"
    )
    .into_bytes();
    answer.resize(answer.len() + OBJECT_BYTES, b'x');
    answer
}

// The budget: a line `name instructions allocations` each.

fn written(measured: &[(&str, Cost)]) -> String {
    let mut text =
        String::from("# name instructions allocations; `make budget BUDGET_ARGS=--update` writes it\n");
    for (name, Cost { instructions, allocations }) in measured {
        text.push_str(&format!("{name} {instructions:.0} {allocations:.0}\n"));
    }
    text
}

fn read_budget() -> BTreeMap<String, Cost> {
    let text = fs::read_to_string(BUDGET).expect("the budget can be read");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [name, instructions, allocations] = words.as_slice() else { panic!("{line}") };
            let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("{line}"));
            let cost = Cost { instructions: number(instructions), allocations: number(allocations) };
            ((*name).to_owned(), cost)
        })
        .collect()
}

fn compare(measured: &[(&str, Cost)], budget: &BTreeMap<String, Cost>) -> ExitCode {
    println!("{:<18}{:>13}{:>10}{:>8}{:>13}{:>8}", "", "instructions", "budget", "", "allocations", "budget");
    let mut over = false;
    for (name, cost) in measured {
        let allowed = budget.get(*name).unwrap_or_else(|| panic!("no budget for `{name}`; use --update"));
        let ratio = cost.instructions / allowed.instructions - 1.0;
        let is_over = ratio > TOLERANCE || cost.allocations >= allowed.allocations + 1.0;
        over |= is_over;
        println!(
            "{name:<18}{:>13.0}{:>10.0}{:>+7.1}%{:>13.2}{:>8.0}{}",
            cost.instructions,
            allowed.instructions,
            100.0 * ratio,
            cost.allocations,
            allowed.allocations,
            if is_over { "  OVER" } else { "" }
        );
    }
    if over { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
