//! Chromium, without a window, spoken to through two pipes (the Chrome DevTools protocol, a JSON
//! object and a zero byte at a time). `.ci/chromium` installs it.

use serde_json::{Value, json};
use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

const FLAGS: [&str; 13] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--window-size=1440,1000",
    "--remote-debugging-pipe",
];

pub struct Browser {
    child: Child,
    say: File,
    heard: Receiver<Value>,
    next: u64,
    _dir: TempDir,
}

/// A page in it.
pub struct Page<'a> {
    browser: &'a mut Browser,
    session: String,
}

impl Browser {
    /// `None`, and a line about it, where there is none.
    pub fn start() -> Option<Self> {
        let named = std::env::var("ONLYONCE_CHROMIUM").unwrap_or_else(|_| "chromium".into());
        let found = Command::new(&named).arg("--version").output();
        if !found.is_ok_and(|found| found.status.success()) {
            println!("skipped: no {named} here (.ci/chromium installs it)");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let [into, out] = ["into", "out"].map(|name| dir.path().join(name));
        for pipe in [&into, &out] {
            assert!(Command::new("mkfifo").arg(pipe).status().unwrap().success());
        }
        let script =
            r#"into=$1 out=$2 browser=$3; shift 3; exec "$browser" "$@" 3<"$into" 4>"$out""#;
        let profile = format!("--user-data-dir={}", dir.path().join("profile").display());
        let child = Command::new("sh")
            .args(["-c", script, "sh"])
            .args([&into, &out])
            .args([&named, &profile])
            .args(FLAGS)
            .arg("about:blank")
            .env("HOME", dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // In this order the shell opens them, too.
        let say = File::options().write(true).open(&into).unwrap();
        let mut out = BufReader::new(File::open(&out).unwrap());
        let (tell, heard) = channel();
        thread::spawn(move || {
            let mut bytes = Vec::new();
            while out.read_until(0, &mut bytes).is_ok_and(|read| read > 0) {
                bytes.pop();
                let value = serde_json::from_slice(&bytes).unwrap();
                if tell.send(value).is_err() {
                    return;
                }
                bytes.clear();
            }
        });
        Some(Browser { child, say, heard, next: 0, _dir: dir })
    }

    #[track_caller]
    fn call(&mut self, session: Option<&str>, method: &str, params: Value) -> Value {
        self.try_call(session, method, params).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    fn try_call(
        &mut self,
        session: Option<&str>,
        method: &str,
        params: Value,
    ) -> Result<Value, Value> {
        self.next += 1;
        let mut message = json!({ "id": self.next, "method": method, "params": params });
        if let Some(session) = session {
            message["sessionId"] = json!(session);
        }
        write!(self.say, "{message}\0").unwrap();
        loop {
            let heard = self.heard.recv_timeout(Duration::from_secs(120)).expect("an answer");
            if heard["id"] == self.next {
                return match &heard["error"] {
                    Value::Null => Ok(heard["result"].clone()),
                    error => Err(error.clone()),
                };
            }
        }
    }

    /// A new page at this address.
    pub fn open(&mut self, url: &str) -> Page<'_> {
        let target = self.call(None, "Target.createTarget", json!({ "url": url }));
        let how = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = self.call(None, "Target.attachToTarget", how);
        let session = attached["sessionId"].as_str().unwrap().to_owned();
        Page { browser: self, session }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Page<'_> {
    /// The value of an expression of JavaScript; waits for a promise.
    #[track_caller]
    pub fn eval(&mut self, expression: &str) -> Value {
        self.try_eval(expression).unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    fn try_eval(&mut self, expression: &str) -> Result<Value, Value> {
        let how = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let result = self.browser.try_call(Some(&self.session), "Runtime.evaluate", how)?;
        match &result["exceptionDetails"] {
            Value::Null => Ok(result["result"]["value"].clone()),
            failed => Err(failed.clone()),
        }
    }

    /// Until an expression is true, on this page or the one that it goes to.
    #[track_caller]
    pub fn until(&mut self, expression: &str) {
        let start = Instant::now();
        loop {
            // Between two pages there is nothing to ask.
            let found = self.try_eval(expression);
            if found.as_ref().is_ok_and(|found| *found == true) {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "never: {expression}: {found:?}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// As on a screen of this size.
    pub fn resize(&mut self, width: u32, height: u32) {
        let how = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false,
        });
        self.browser.call(Some(&self.session), "Emulation.setDeviceMetricsOverride", how);
    }

    /// A picture of all of it, as PNG.
    pub fn picture(&mut self, to: &Path) {
        let size = self.browser.call(Some(&self.session), "Page.getLayoutMetrics", json!({}));
        let size = &size["cssContentSize"];
        let clip = json!({
            "x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1,
        });
        self.shot(to, json!({ "format": "png", "captureBeyondViewport": true, "clip": clip }));
    }

    /// A picture of its beginning.
    pub fn picture_of_top(&mut self, to: &Path, width: u32, height: u32) {
        let clip = json!({ "x": 0, "y": 0, "width": width, "height": height, "scale": 1 });
        self.shot(to, json!({ "format": "png", "captureBeyondViewport": true, "clip": clip }));
    }

    /// A picture of what the selector finds.
    pub fn picture_of(&mut self, selector: &str, to: &Path) {
        let at = self.eval(&format!(
            "(({{ x, y, width, height }}) => ({{ x, y, width, height, scale: 1 }}))(
                document.querySelector('{selector}').getBoundingClientRect())"
        ));
        self.shot(to, json!({ "format": "png", "clip": at }));
    }

    fn shot(&mut self, to: &Path, how: Value) {
        let picture = self.browser.call(Some(&self.session), "Page.captureScreenshot", how);
        std::fs::write(to, base64(picture["data"].as_str().unwrap())).unwrap();
    }
}

fn base64(text: &str) -> Vec<u8> {
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut count, mut bytes) = (0u32, 0, Vec::new());
    for c in text.bytes().filter(|c| *c != b'=') {
        let digit = digits.iter().position(|digit| *digit == c).expect("base64");
        bits = bits << 6 | digit as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}
