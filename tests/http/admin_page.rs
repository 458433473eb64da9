//! The admin service's page in a real browser, headless Chromium. Skipped, with a line, where there
//! is none; `.ci/chromium` installs it.
//!
//! `ONLYONCE_PICTURE=docs/admin cargo test --features admin --test http picture` puts a store under
//! load for a minute and takes the pictures of the documents.

use crate::admin_client::{browser::*, *};
use crate::common::*;
use onlyonce::{admin::Admin, *};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

/// What an attacker would choose for a key.
const EVIL: &str =
    r#"<img src=x onerror="document.title='owned'"><script>document.title='owned'</script>"#;

fn loaded<'a>(browser: &'a mut Browser, address: SocketAddr) -> Page<'a> {
    let mut page = browser.open(&format!("http://{address}/"));
    page.until("document.body?.dataset.loaded === 'yes'");
    page
}

#[test]
fn it_shows_keys_alarms_and_figures_as_text() {
    let Some(mut browser) = Browser::start() else { return };
    let (store, clock) = threaded();
    store.finish("done", b"x");
    drop(store.claim(EVIL));
    let mut late = store.claim("late");
    clock.advance(2 * MINUTE);
    let Begin::Execute(mut next) = store.stuck("late").take_over().unwrap() else { panic!() };
    next.complete(b"second").unwrap();
    assert_eq!(late.complete(b"first"), Err(ClaimError::Fenced));
    let _held = store.claim("held <b>now</b>");
    clock.advance(20 * MINUTE);
    // The lease has passed, as far as anybody knows.
    let _running = store.claim("running");
    let _ = store.begin(key("done"), other_print()).unwrap();

    let address = serve(Admin::new(&store).name("orders <i>main</i>"));
    let mut page = loaded(&mut browser, address);
    let text = page.eval("document.body.innerText").as_str().unwrap().to_owned();
    for shown in [EVIL, "held <b>now</b>", "running", "a holder was fenced", "orders <i>main</i>"] {
        assert!(text.contains(shown), "{shown} is not in\n{text}");
    }
    assert!(text.contains("the claim was dropped undecided") && text.contains("the lease passed"));
    // Text, not markup.
    assert_eq!(page.eval("document.querySelectorAll('img, b, i[onerror]').length"), 0);
    assert!(page.eval("document.title").as_str().unwrap().starts_with("(!) onlyonce"));
    assert_eq!(page.eval("document.querySelector('#a-fenced .number').textContent"), "1");
    assert_eq!(page.eval("document.querySelector('#a-mismatch .number').textContent"), "1");
    assert_eq!(page.eval("document.querySelectorAll('#interrupted tbody tr').length"), 2);
    assert_eq!(page.eval("document.querySelectorAll('#inflight tbody tr').length"), 1);
    // It goes on by itself.
    drop(_running);
    page.until("document.querySelectorAll('#interrupted tbody tr').length === 3");
    // And it runs nothing that didn't come with it.
    page.eval(
        "try {
            const script = document.createElement('script');
            script.textContent = 'window.ran = true';
            document.body.append(script);
         } catch (refused) {}
         try {
            document.body.setAttribute('onclick', 'window.ran = true');
            document.body.click();
         } catch (refused) {}",
    );
    assert_eq!(page.eval("window.ran === true"), false);
}

/// Opens the dialog of the first interrupted key.
fn open_dialog(page: &mut Page<'_>) {
    page.until("document.querySelectorAll('#interrupted button').length > 0");
    page.eval("document.querySelector('#interrupted button').click()");
    page.until("document.querySelector('dialog').open");
}

#[test]
fn keys_are_resolved_by_hand_after_a_confirmation() {
    let Some(mut browser) = Browser::start() else { return };
    let (store, clock) = threaded();
    let mut failed = store.claim("first");
    failed.save_checkpoint(b"charge ch_1").unwrap();
    failed.fail(b"what the provider said").unwrap();
    drop(failed);
    clock.advance(MINUTE);
    drop(store.claim(EVIL));
    let address = serve(Admin::new(&store));
    let mut page = loaded(&mut browser, address);

    open_dialog(&mut page);
    let shown = page.eval("document.querySelector('dialog').innerText");
    let shown = shown.as_str().unwrap();
    assert!(shown.contains("charge ch_1") && shown.contains("what the provider said"), "{shown}");
    let decide = "document.querySelector('dialog button.danger')";
    let choose = |value: &str| format!("document.querySelector('dialog [value={value}]').click()");
    // What a failed holder left is no answer by itself.
    assert_eq!(page.eval("document.querySelector('dialog textarea').value"), "");
    // Nothing is decided before it is said what, and that one is sure.
    assert_eq!(page.eval(&format!("{decide}.disabled")), true);
    page.eval(&choose("complete"));
    assert_eq!(page.eval(&format!("{decide}.disabled")), true);
    page.eval("document.querySelector('dialog [name=sure]').click()");
    page.eval(
        "document.querySelector('dialog [name=http]').checked = false;
         document.querySelector('dialog textarea').value = 'charged \\\\x00 by hand'",
    );
    page.eval(&format!("{decide}.click()"));
    page.until("!document.querySelector('dialog').open");
    assert_eq!(store.answer("first"), b"charged \0 by hand");

    // The next one, whatever it is called.
    page.until("document.querySelectorAll('#interrupted button').length === 1");
    open_dialog(&mut page);
    page.eval(&choose("free"));
    page.eval("document.querySelector('dialog [name=sure]').click()");
    page.eval(&format!("{decide}.click()"));
    page.until("document.querySelectorAll('#interrupted button').length === 0");
    assert!(store.is_absent(EVIL));
}

/// Opens the dialog of a key.
fn look_up(page: &mut Page<'_>, scope: &str, key: &str) {
    page.eval(&format!(
        "document.querySelector('#find [name=hash]').value = '';
         document.querySelector('#find [name=scope]').value = '{scope}';
         document.querySelector('#find [name=key]').value = '{key}';
         document.querySelector('#find button').click()"
    ));
    page.until("document.querySelector('dialog').open");
}

#[test]
fn a_wrong_answer_is_replaced_by_hand() {
    let Some(mut browser) = Browser::start() else { return };
    let (store, _) = threaded();
    store.finish("done", b"wrong");
    let address = serve(Admin::new(&store));
    let mut page = loaded(&mut browser, address);
    look_up(&mut page, "tenant/orders", "done");
    page.eval(
        "document.querySelector('dialog [value=replace]').click();
         document.querySelector('dialog [name=sure]').click();
         document.querySelector('dialog [name=http]').checked = true;
         document.querySelector('dialog textarea').value = 'right';
         document.querySelector('dialog button.danger').click()",
    );
    // The key doesn't show that its answers are the layer's.
    page.until("document.querySelector('dialog .error').innerText.includes('layer')");
    page.eval(
        "document.querySelector('dialog [name=layer]').value = 'http';
         document.querySelector('dialog button.danger').click()",
    );
    page.until("!document.querySelector('dialog').open");
    let answer = store.answer("done");
    let Some(http::StoredAnswer::Open { status, body, .. }) = http::StoredAnswer::read(&answer)
    else {
        panic!("{answer:?}")
    };
    assert_eq!((status.as_u16(), &body[..]), (200, &b"right"[..]));
}

#[test]
fn a_key_is_found_by_its_hash() {
    let Some(mut browser) = Browser::start() else { return };
    let (store, _) = threaded();
    store.finish("done", b"the answer");
    let address = serve(Admin::new(&store));
    let listed = get(address, "/api/keys?state=completed").json();
    let hash = listed["keys"][0]["hash"].as_str().unwrap();
    let mut page = loaded(&mut browser, address);
    let ask = |hash: &str| {
        format!(
            "document.querySelector('#find [name=hash]').value = '{hash}';
             document.querySelector('#find button').click()"
        )
    };
    page.eval(&ask("0000000000000001"));
    page.until("document.querySelector('#find-error').innerText.includes('nothing is known')");
    page.eval(&ask(hash));
    page.until("document.querySelector('dialog').open");
    let shown = page.eval("document.querySelector('dialog').innerText");
    assert!(shown.as_str().unwrap().contains("the answer"));
}

#[test]
fn a_read_only_page_offers_no_decision() {
    let Some(mut browser) = Browser::start() else { return };
    let (store, _) = threaded();
    drop(store.claim("k"));
    let address = serve(Admin::new(&store).read_only(true));
    let mut page = loaded(&mut browser, address);
    assert_eq!(page.eval("document.querySelector('#ops').hidden"), true);
    open_dialog(&mut page);
    assert_eq!(page.eval("document.querySelectorAll('dialog fieldset, dialog .danger').length"), 0);
}

/// On a phone and on a desk.
#[test]
fn many_keys_are_filtered_paged_and_decided_at_once() {
    let Some(mut browser) = Browser::start() else { return };
    for (width, height) in [(400, 800), (1280, 900)] {
        let sim = Sim::with(|options| options.background(true).max_claims(400));
        let store = sim.open();
        let scope = Scope::of(["a-customer-with-a-long-name-of-its-own", "payments"]);
        for n in 0..110 {
            drop(store.claim(&format!("a-key-that-is-as-long-as-an-identifier-{n:03}")));
        }
        for n in 0..3 {
            let name = format!("other-{n}");
            drop(store.begin(KeyRef::new(&scope, &name).unwrap(), print()).unwrap());
        }
        let address = serve(Admin::new(&store));
        let mut page = loaded(&mut browser, address);
        page.resize(width, height);
        let rows = "document.querySelectorAll('#interrupted tbody tr').length";
        page.until(&format!("{rows} === 50"));
        let too_wide = "[...document.querySelectorAll('main > *')]
            .filter(part => part.scrollWidth > part.clientWidth + 1).map(part => part.id)";
        let fits = "document.documentElement.scrollWidth <= window.innerWidth";
        let found = page.eval(too_wide);
        assert_eq!(page.eval(fits), true, "at {width}: {found}");
        // What needs a decision is the first thing that is seen.
        let first = "[...document.querySelectorAll('main > :not([hidden])')][0].innerText";
        assert!(page.eval(first).as_str().unwrap().starts_with("Interrupted"), "at {width}");
        let display = page
            .eval("getComputedStyle(document.querySelector('#interrupted tr:last-child')).display");
        assert_eq!(display == "grid", width == 400, "{display} at {width}");
        let unlabelled = "[...document.querySelectorAll('input, select, textarea')].filter(
            field => !field.getAttribute('aria-label') && !field.closest('label')).length";
        assert_eq!(page.eval(unlabelled), 0);
        // Page by page.
        page.eval("document.querySelector('#on').click()");
        page.until("document.querySelector('#i-note').innerText.startsWith('51 to 100 of 113')");
        page.eval("document.querySelector('#on').click()");
        page.until(&format!("{rows} === 13 && document.querySelector('#on').disabled"));
        // One customer's.
        page.eval(
            "document.querySelector('#filter [name=scope]').value =
                 'a-customer-with-a-long-name-of-its-own/payments';
             document.querySelector('#filter button').click()",
        );
        page.until(&format!("{rows} === 3"));
        page.eval("document.querySelector('#all').click()");
        page.until("document.querySelector('#bulk').innerText === 'Decide about 3 selected…'");
        page.eval("document.querySelector('#bulk').click()");
        page.until("document.querySelector('dialog').open");
        let inside = "(({ left, right }) => left >= 0 && right <= window.innerWidth)(
            document.querySelector('dialog').getBoundingClientRect())";
        assert_eq!(page.eval(inside), true, "the dialog at {width}");
        let typed = |text: &str| {
            format!(
                "(input => {{ input.value = '{text}'; input.dispatchEvent(new Event('input')); }})(
                     document.querySelector('dialog [name=typed]'));
                 document.querySelector('dialog .danger').disabled"
            )
        };
        assert_eq!(page.eval(&typed("free 4")), true);
        assert_eq!(page.eval(&typed("free 3")), false);
        page.eval(
            "document.querySelector('dialog [name=note]').value = 'INC-7';
             document.querySelector('dialog .danger').click()",
        );
        page.until("document.querySelector('dialog h2').innerText === '3 decided'");
        page.until(&format!("{rows} === 0"));
        let decisions = store.decisions().unwrap();
        assert_eq!(decisions.len(), 3);
        assert!(decisions.iter().all(|d| d.note == "INC-7" && d.key.scope() == scope.as_bytes()));
        assert_eq!(store.stats().interrupted, 110);
    }
}

/// On a phone and on a desk; the scope has to be written twice.
#[test]
fn a_customer_is_erased_by_hand() {
    let Some(mut browser) = Browser::start() else { return };
    for (width, height) in [(400, 800), (1280, 900)] {
        let (store, _) = threaded();
        store.finish("other's", b"order");
        let scope = Scope::of(["a-customer-with-a-long-name-of-its-own", "payments"]);
        let begin = |name| store.begin(KeyRef::new(&scope, name).unwrap(), print()).unwrap();
        let Begin::Execute(mut done) = begin("done") else { panic!() };
        done.complete(b"order").unwrap();
        let by = decisions::By { actor: "kim", note: "" };
        let forget = ResolveOptions::forced().by(by);
        let done = KeyRef::new(&scope, "done").unwrap();
        store.resolve_with(done, Resolution::Forget, forget).unwrap();
        drop((begin("done"), begin(EVIL)));
        let Begin::Execute(mut held) = begin("held") else { panic!() };
        let address = serve(Admin::new(&store));
        let mut page = loaded(&mut browser, address);
        page.resize(width, height);
        page.eval("document.querySelector('#erase').click()");
        page.until("document.querySelector('dialog').open");
        let inside = "(({ left, right, bottom }) => left >= 0 && right <= window.innerWidth
                && bottom <= window.innerHeight)(
            document.querySelector('dialog').getBoundingClientRect())";
        assert_eq!(page.eval(inside), true, "the dialog at {width}");
        let unlabelled = "[...document.querySelectorAll('dialog input')].filter(
            field => !field.getAttribute('aria-label') && !field.closest('label')).length";
        assert_eq!(page.eval(unlabelled), 0);
        let erase = "document.querySelector('dialog .danger')";
        let typed = |into: &str, text: &str| {
            format!(
                "(input => {{ input.value = '{text}'; input.dispatchEvent(new Event('input')); }})(
                     document.querySelector('dialog [aria-label=\"{into}\"]'));
                 {erase}.disabled"
            )
        };
        let name = "a-customer-with-a-long-name-of-its-own/payments";
        assert_eq!(page.eval(&typed("scope", name)), true);
        assert_eq!(page.eval(&typed("the scope once more", "a-customer")), true);
        assert_eq!(page.eval(&typed("the scope once more", name)), false);
        let told = "document.querySelector('dialog [role=alert]').innerText";
        page.eval(&format!("{erase}.click()"));
        page.until(&format!("{told} === '2 keys and 1 decisions are erased; 1 keys are left'"));
        // What is held goes when that is said aloud.
        page.eval(&format!(
            "document.querySelector('dialog [type=checkbox]').click(); {erase}.click()"
        ));
        page.until(&format!("{told} === '1 keys and 0 decisions are erased; 0 keys are left'"));
        assert_eq!(held.complete(b"late"), Err(ClaimError::Fenced));
        page.eval("[...document.querySelectorAll('dialog button')][0].click()");
        page.until("!document.querySelector('dialog').open");
        assert_eq!(store.entries(Filter::ALL).count(), 1);
        assert_eq!(store.answer("other's"), b"order");
        assert!(store.decisions().unwrap().is_empty());
    }
}

/// A key has an address of its own, with what was decided about it.
#[test]
fn a_key_s_own_address_shows_its_history() {
    let Some(mut browser) = Browser::start() else { return };
    let (store, _) = threaded();
    store.finish("done", b"wrong");
    let by = decisions::By { actor: "kim", note: "<b>INC-7</b>" };
    let replace = Resolution::Replace { head: b"", response: Some(b"right") };
    store.resolve_with(key("done"), replace, ResolveOptions::new().by(by)).unwrap();
    let address = serve(Admin::new(&store));
    let url = format!("http://{address}/#scope=tenant%2Forders&key=done");
    let mut page = browser.open(&url);
    page.until("document.querySelector('dialog')?.open === true");
    page.eval("document.querySelector('dialog details').open = true");
    let shown = page.eval("document.querySelector('dialog').innerText");
    let shown = shown.as_str().unwrap();
    for what in ["right", "wrong", "replace by kim", "<b>INC-7</b>"] {
        assert!(shown.contains(what), "{what}: {shown}");
    }
    page.eval("document.querySelector('dialog').close()");
    page.until("location.hash === ''");
}

/// A page of another origin.
fn elsewhere() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // A browser opens connections on which it may send nothing.
            thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                let body = "<!doctype html><title>elsewhere</title>";
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n";
                let _ = write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len());
            });
        }
    });
    port
}

#[test]
fn a_page_of_another_site_changes_and_reads_nothing() {
    let Some(mut browser) = Browser::start() else { return };
    let (store, _) = threaded();
    drop(store.claim("k"));
    let address = serve(Admin::new(&store));
    let found = get(address, "/api/keys").json()["keys"][0].clone();
    let body = serde_json::json!({
        "scope": found["scope"], "key": "k", "token": found["token"], "decision": "free",
    });
    let attack = format!(
        "(async () => {{
            const to = 'http://{address}/api/resolve', body = {};
            const ways = [
                {{ mode: 'no-cors', headers: {{ 'content-type': 'text/plain' }} }},
                {{ mode: 'no-cors' }},
                {{ mode: 'cors', headers: {{ 'content-type': 'application/json', 'x-onlyonce-admin': '1' }} }},
            ];
            const out = [];
            for (const way of ways) {{
                const sent = {{ method: 'POST', body, credentials: 'include', ...way }};
                out.push(await fetch(to, sent).then(a => a.type + a.status, () => 'refused'));
            }}
            out.push(await fetch('http://{address}/api/keys').then(a => a.text(), () => 'refused'));
            return out;
        }})()",
        serde_json::to_string(&body.to_string()).unwrap()
    );
    let port = elsewhere();
    // Another origin of the same site, and another site.
    for host in ["127.0.0.1", "localhost"] {
        let mut page = browser.open(&format!("http://{host}:{port}/"));
        page.until("document.title === 'elsewhere'");
        let out = page.eval(&attack);
        assert_eq!(out, serde_json::json!(["refused", "refused", "refused", "refused"]), "{host}");
        // A form goes where it wants, and is answered what it lacks.
        page.eval(&format!(
            "const form = document.createElement('form');
             Object.assign(form, {{ method: 'POST', enctype: 'text/plain', action: 'http://{address}/api/resolve' }});
             document.body.append(form);
             form.submit()"
        ));
        page.until("document.body?.innerText.includes('needs_force') === true");
        assert_eq!(store.stuck("k").reason(), Reason::Dropped);
    }
    assert_eq!(post(address, "/api/resolve", &body).status, 200, "only who sent it was wrong");
}

/// Under load, with something in each part; only when asked for.
#[test]
fn picture() {
    let Ok(to) = std::env::var("ONLYONCE_PICTURE") else { return };
    let mut browser = Browser::start().expect("a browser");
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new().capacity(256 << 20).retention(10 * MINUTE).open(dir.path()).unwrap();
    let scopes = ["acme", "globex", "initech"]
        .map(|tenant| Scope::new(format!("{tenant}/payments")).unwrap());
    let key = |tenant: usize, name: &'static str| KeyRef::new(&scopes[tenant], name).unwrap();
    let claim = |tenant, name| granted(store.begin(key(tenant, name), print()).unwrap());
    let mut failed = claim(0, "8e03978e-40d5-43e8-bc93-6894a57f9324");
    failed.save_checkpoint(b"charge created: ch_3P9x").unwrap();
    failed.fail(b"504 from the provider").unwrap();
    drop(failed);
    drop(claim(1, "9f2c1f0a-77aa-4c59-9f0c-2f7d1d3b6c11"));
    drop(claim(2, "invoice-2026-11/<b>7</b>"));
    let long = Terms { lease: Some(5 * MINUTE), ..Terms::default() };
    let hold = |tenant, name| granted(store.begin_with(key(tenant, name), print(), long).unwrap());
    let _held = [hold(0, "b7a1d1f2-6a0e-4f5e-8a43-0d3f5b1c2e90"), hold(2, "refund-1182")];
    let _silent = claim(1, "order-5520");
    let short = Terms { lease: Some(MS), ..Terms::default() };
    let late = key(1, "c4e8a6b0-1b6f-4c0e-9f43-5f0a5c3f8d21");
    let mut late_claim = granted(store.begin_with(late, print(), short).unwrap());
    thread::sleep(20 * MS);
    let Begin::Interrupted(stuck) = store.begin(late, print()).unwrap() else { panic!() };
    granted(stuck.take_over().unwrap()).complete(b"charged").unwrap();
    assert_eq!(late_claim.complete(b"charged"), Err(ClaimError::Fenced));
    for _ in 0..7 {
        let _ = store.begin(late, other_print()).unwrap();
    }
    let other = key(0, "shared-key");
    granted(store.begin(other, print()).unwrap()).complete(b"x").unwrap();
    for _ in 0..2 {
        let _ = store.begin(other, other_print()).unwrap();
    }

    let address = serve(Admin::new(&store).name("payments"));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for worker in 0..3 {
            let (store, over, scopes) = (&store, &over, &scopes);
            scope.spawn(move || {
                let mut n = 0u64;
                while !over.load(Ordering::Relaxed) {
                    let name = format!("{worker}-{n}");
                    let key = KeyRef::new(&scopes[worker], &name).unwrap();
                    let mut claim = granted(store.begin(key, print()).unwrap());
                    if n.is_multiple_of(9) {
                        assert!(matches!(store.begin(key, print()), Ok(Begin::InFlight(_))));
                    }
                    claim.complete(&[7; 900]).unwrap();
                    for _ in 0..(n / 150 % 3) {
                        let _ = store.begin(key, print()).unwrap();
                    }
                    n += 1;
                    // A wave, so that there is something to see.
                    let pause = 2 + (n / 97 % 7).abs_diff(3);
                    thread::sleep(pause as u32 * MS);
                }
            });
        }
        let mut page = loaded(&mut browser, address);
        thread::sleep(75 * SECOND);
        page.picture(&Path::new(&to).with_extension("png"));
        page.resize(400, 800);
        page.picture_of_top(Path::new(&format!("{to}-phone.png")), 400, 860);
        page.resize(1280, 900);
        open_dialog(&mut page);
        page.eval("document.querySelector('dialog [value=complete]').click()");
        page.picture_of("dialog", Path::new(&format!("{to}-resolve.png")));
        over.store(true, Ordering::Relaxed);
    });
}
