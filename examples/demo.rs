//! A tour of the program: a real S3 server over a temporary folder, the real proxy in front of it,
//! and the lines to try. `make demo` prints them and waits for Ctrl-C; `make demo
//! DEMO_ARGS=--check` runs them itself and checks every answer.
//!
//! Both modes read one list of steps and hand the same text to the same shell, so what is printed
//! is what is checked. Steps edit one configuration file and build on each other.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kit::store::{ACCESS_KEY, SECRET_KEY, Store};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tempfile::TempDir;

const FILM_BYTES: usize = 200_000_000;

/// How long the proxy may take to start, and each step to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often a child is asked whether it has ended.
const TICK: Duration = Duration::from_millis(10);

/// What both the reload and `--validate` say of the broken edit.
const DUPLICATE: &str =
    "buckets[1].path_prefix (line 18): Duplicate path_prefix '/manual' found in buckets: docs, films";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let check = match arguments.as_slice() {
        [] => false,
        [one] if one == "--check" => true,
        _ => {
            eprintln!("usage: demo [--check]");
            return ExitCode::from(2);
        }
    };
    match run(check) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(check: bool) -> Result<()> {
    // A flag and not the default action, so that guards run and nothing is left behind.
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, interrupted.clone()).context("signals cannot be caught")?;
    }
    let runtime = tokio::runtime::Runtime::new().context("the store's threads cannot be started")?;
    let store = runtime.block_on(Store::start());
    store.put("docs", "hello.txt", "Hello from the store.\n");
    store.put("films", "plan.txt", "Nobody may know.\n");
    store.put("films", "film.bin", film());
    let mut proxy = Proxy::start(&store, &interrupted)?;
    let steps = steps(&proxy, &store);
    if check { verify(&steps, &proxy, &interrupted) } else { present(&steps, &mut proxy, &interrupted) }
}

/// Bytes in which nothing repeats, so that no lost, doubled or swapped part goes unnoticed.
fn film() -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(FILM_BYTES);
    while bytes.len() < FILM_BYTES {
        // Marsaglia's xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

struct Step {
    title: &'static str,
    /// For a POSIX shell, complete in itself.
    shell: String,
    /// Parts of the output, in any order.
    expected: &'static [&'static str],
}

fn steps(proxy: &Proxy, store: &Store) -> Vec<Step> {
    let (url, pid, program) = (&proxy.url, proxy.running.0.id(), proxy.program.display());
    let folder = proxy.folder.path().display();
    let config = format!("{folder}/config.yaml");
    let original = store.root.path().join("films/film.bin");
    let original = original.display();
    let reader = format!("-H \"Authorization: Bearer $(cat {folder}/reader.token)\"");
    let reload = format!(
        "curl -sSi -X POST -H \"Authorization: Bearer $(cat {folder}/admin.token)\" {url}/admin/reload"
    );
    let step = |title, shell, expected| Step { title, shell, expected };
    vec![
        step(
            "a public object",
            format!("curl -sSi {url}/docs/hello.txt"),
            &["HTTP/1.1 200", "Hello from the store."],
        ),
        step(
            "a private object without a token",
            format!("curl -sSi {url}/films/plan.txt"),
            &["HTTP/1.1 401", "WWW-Authenticate: Bearer", "<Code>AccessDenied</Code>"],
        ),
        step(
            "a private object with a token",
            format!("curl -sSi {reader} {url}/films/plan.txt"),
            &["HTTP/1.1 200", "Nobody may know."],
        ),
        step(
            "100 bytes from the middle of 200 MB",
            format!("curl -sS -D - -o /dev/null -r 100000000-100000099 {reader} {url}/films/film.bin"),
            &["HTTP/1.1 206", "Content-Length: 100\r", "Content-Range: bytes 100000000-100000099/200000000"],
        ),
        step(
            "its headers only",
            format!("curl -sS --head {reader} {url}/films/film.bin"),
            &["HTTP/1.1 200", "Content-Length: 200000000", "ETag: "],
        ),
        step(
            "new prefix, SIGHUP",
            format!(
                "sed -i.bak 's|path_prefix: /docs|path_prefix: /manual|' {config}
kill -HUP {pid}; sleep 1
curl -sSi {url}/manual/hello.txt"
            ),
            &["HTTP/1.1 200", "Hello from the store."],
        ),
        step(
            "new rule, POST /admin/reload",
            format!(
                "sed -i.bak 's|enabled: true|enabled: false|' {config}
{reload}
curl -sSi {url}/films/plan.txt"
            ),
            &["Configuration reloaded successfully", "\"config_generation\":3", "Nobody may know."],
        ),
        step(
            "broken file: refused, all goes on",
            format!(
                "sed -i.bak 's|path_prefix: /films|path_prefix: /manual|' {config}
{reload}
curl -sSi {url}/films/plan.txt"
            ),
            &["HTTP/1.1 400", "Configuration reload failed", DUPLICATE, "HTTP/1.1 200", "Nobody may know."],
        ),
        step(
            "--validate says the same",
            format!("{program} --config {config} --validate; echo \"exit code $?\""),
            &[DUPLICATE, "exit code 1"],
        ),
        step(
            "metrics",
            format!("curl -sS {url}/metrics | grep -E '^(config_|yatagarasu_http_requests_total)'"),
            &[
                "config_reload_success_total 2",
                "config_reload_failure_total 1",
                "bucket=\"films\",method=\"HEAD\"",
            ],
        ),
        step(
            "first file again: private again",
            format!("cp {folder}/first.yaml {config}\n{reload}\ncurl -sSi {url}/films/plan.txt"),
            &["\"config_generation\":4", "HTTP/1.1 401"],
        ),
        step(
            "bucket removed under a slow download",
            format!(
                "curl -sS --limit-rate 40M {reader} -o {folder}/copy.bin {url}/films/film.bin & sleep 1
sed -i.bak '/name: films/,$d' {config}
{reload}
curl -sSi {reader} {url}/films/film.bin
kill -0 $! && echo still downloading
wait $!; cmp {folder}/copy.bin {original} && echo identical"
            ),
            &["\"config_generation\":5", "<Code>NoSuchBucket</Code>", "still downloading", "identical"],
        ),
    ]
}

/// Prints the steps and waits until it is told to end.
fn present(steps: &[Step], proxy: &mut Proxy, interrupted: &AtomicBool) -> Result<()> {
    println!("\nThe proxy serves at {}; try this, in this order, in another terminal:", proxy.url);
    for (number, step) in (1..).zip(steps) {
        println!("\n{number:>2}. {}", step.title);
        println!("    expect: {}\n", step.expected.join(" … ").replace('\r', ""));
        println!("{}", step.shell);
    }
    let folder = proxy.folder.path().display();
    println!(
        "\nConfiguration, tokens and the proxy's log are in {folder}. Ctrl-C ends and removes everything."
    );
    while !interrupted.load(Ordering::SeqCst) {
        ensure!(!proxy.running.has_ended()?, "the proxy has ended; its log:\n{}", proxy.log());
        sleep(TICK);
    }
    Ok(())
}

/// Runs the steps and prints a row for everything expected. Fails at the first surprise.
fn verify(steps: &[Step], proxy: &Proxy, interrupted: &AtomicBool) -> Result<()> {
    let started = Instant::now();
    let row = |step: &str, expected: &str, came: &str, verdict: &str| {
        println!("{}  {}  {}  {verdict}", fit(step, 40), fit(expected, 44), fit(came, 44));
    };
    row("step", "expected", "came", "");
    for (number, step) in (1..).zip(steps) {
        let output = shell(&step.shell, proxy.folder.path(), interrupted)?;
        let mut title = format!("{number:>2} {}", step.title);
        for expected in step.expected {
            // The case of a header's name means nothing.
            let found = output.to_ascii_lowercase().find(&expected.to_ascii_lowercase());
            // Where it is missing, the first line says best what came instead.
            let came = &output[found.unwrap_or(0)..];
            row(&title, expected, came, if found.is_some() { "ok" } else { "NOT OK" });
            ensure!(
                found.is_some(),
                "\n`{expected}` is missing in the output of\n{}\n\n{output}\nlog of the proxy\n{}",
                step.shell,
                proxy.log()
            );
            title.clear();
        }
    }
    println!("\n{} steps as expected in {:.1} seconds", steps.len(), started.elapsed().as_secs_f64());
    Ok(())
}

/// The first line of a text, cut or filled to a width.
fn fit(text: &str, width: usize) -> String {
    let line = text.lines().next().unwrap_or_default().trim_end();
    format!("{:width$}", line.chars().take(width).collect::<String>())
}

/// What a shell prints to both outputs while it runs `line`.
fn shell(line: &str, folder: &Path, interrupted: &AtomicBool) -> Result<String> {
    // Into a file, because a pipe that nobody empties would stop the shell.
    let path = folder.join("output");
    let output = File::create(&path).context("the output cannot be kept")?;
    let mut command = Command::new("sh");
    command.arg("-c").arg(line).stdout(output.try_clone()?).stderr(output);
    let mut running = Running::start(&mut command)?;
    let deadline = Instant::now() + PATIENCE;
    while !running.has_ended()? {
        ensure!(!interrupted.load(Ordering::SeqCst), "interrupted");
        ensure!(Instant::now() < deadline, "not done in {} seconds:\n{line}", PATIENCE.as_secs());
        sleep(TICK);
    }
    Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())
}

/// The real program, as built beside this one. Ended before its folder is removed.
struct Proxy {
    running: Running,
    program: PathBuf,
    url: String,
    folder: TempDir,
}

impl Proxy {
    fn start(store: &Store, interrupted: &AtomicBool) -> Result<Self> {
        let this = std::env::current_exe()?;
        let program =
            this.parent().and_then(Path::parent).context("an example lies below the target folder")?;
        let program = program.join("yatagarasu");
        ensure!(program.exists(), "`{}` is missing; run `make demo`, which builds it", program.display());

        let folder = tempfile::Builder::new().prefix("yatagarasu-demo-").tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = folder.path().join("config.yaml");
        let text = configuration(port, &store.url());
        fs::write(&config, &text)?;
        fs::set_permissions(&config, fs::Permissions::from_mode(0o600))?;
        fs::write(folder.path().join("first.yaml"), &text)?;
        for (name, claim) in [("reader", "sub=ann"), ("admin", "role=admin")] {
            let mut token = Command::new(&program);
            let token = token.args(["token", "--claim", claim, "--config"]).arg(&config).output()?;
            ensure!(token.status.success(), "no token: {}", String::from_utf8_lossy(&token.stderr));
            fs::write(folder.path().join(name).with_extension("token"), token.stdout)?;
        }

        let mut command = Command::new(&program);
        command.arg("--config").arg(&config).stdout(Stdio::null());
        command.stderr(File::create(folder.path().join("proxy.log"))?);
        let running = Running::start(&mut command)?;
        let mut proxy = Self { running, program, url: format!("http://127.0.0.1:{port}"), folder };
        let deadline = Instant::now() + PATIENCE;
        while ureq::get(format!("{}/readyz", proxy.url)).call().is_err() {
            ensure!(!interrupted.load(Ordering::SeqCst), "interrupted");
            let hopeless = proxy.running.has_ended()? || Instant::now() > deadline;
            ensure!(!hopeless, "the proxy does not serve; its log:\n{}", proxy.log());
            sleep(TICK);
        }
        Ok(proxy)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("proxy.log")).unwrap_or_default()
    }
}

/// One key a line, so that `sed` can edit it.
fn configuration(port: u16, endpoint: &str) -> String {
    let bucket = |name: &str, private: bool| {
        format!(
            "  - name: {name}
    path_prefix: /{name}
    s3:
      bucket: {name}
      region: us-east-1
      endpoint: \"{endpoint}\"
      access_key: {ACCESS_KEY}
      secret_key: {SECRET_KEY}
    auth:
      enabled: {private}
"
        )
    };
    format!(
        "server:\n  address: 127.0.0.1\n  port: {port}\njwt:\n  secret: a-secret-for-this-demo-and-nothing-else\nbuckets:\n{}{}",
        bucket("docs", false),
        bucket("films", true)
    )
}

/// A child in a process group of its own, so that Ctrl-C reaches it through us alone; the group is
/// ended when this is dropped.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        let child = command.stdin(Stdio::null()).process_group(0).spawn();
        Ok(Self(child.with_context(|| format!("{} cannot be started", command.get_program().display()))?))
    }

    fn has_ended(&mut self) -> Result<bool> {
        Ok(self.0.try_wait()?.is_some())
    }

    fn signal(&self, name: &str) {
        // A shell's own `kill`, because a slim system has no other.
        let line = format!("kill -s {name} -- -{}", self.0.id());
        let _ = Command::new("sh").args(["-c", &line]).stderr(Stdio::null()).status();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.has_ended(), Ok(true)) {
            return;
        }
        self.signal("TERM");
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(self.has_ended(), Ok(false)) && Instant::now() < deadline {
            sleep(TICK);
        }
        if matches!(self.has_ended(), Ok(false)) {
            self.signal("KILL");
            let _ = self.0.wait();
        }
    }
}
