use alloy::primitives::U256;
use alloy::signers::SignerSync as _;
use alloy::signers::local::PrivateKeySigner;

use super::*;

fn key() -> PrivateKeySigner {
    PrivateKeySigner::from_slice(&[7; 32]).unwrap()
}

/// Both forms of one signature: with the lower and with the higher value of `s`.
fn both_forms(digest: B256) -> [ecdsa::Signature; 2] {
    let low = key().sign_hash_sync(&digest).unwrap();
    let order = U256::from_be_bytes(hex!("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"));
    let form = |s: U256| ecdsa::Signature::from_scalars(low.r().to_be_bytes(), s.to_be_bytes()).unwrap();
    [form(low.s()), form(order - low.s())]
}

#[test]
fn p4_whichever_form_kms_chooses_the_transaction_has_the_lower_one_and_recovers() {
    for byte in 0..32 {
        let digest = B256::repeat_byte(byte);
        let expected = key().sign_hash_sync(&digest).unwrap();
        for form in both_forms(digest) {
            let der = ecdsa::Signature::from_der(form.to_der().as_bytes()).unwrap();
            assert_eq!(recoverable(&der, digest, key().address()), Some(expected));
        }
    }
}

#[test]
fn p4_a_signature_of_another_key_or_of_another_digest_is_none() {
    let digest = B256::repeat_byte(1);
    let [low, high] = both_forms(digest);
    for form in [low, high] {
        assert_eq!(recoverable(&form, digest, Address::repeat_byte(1)), None);
        assert_eq!(recoverable(&form, B256::repeat_byte(2), key().address()), None);
    }
}

#[test]
fn the_region_is_read_from_an_arn_and_from_nothing_else() {
    assert_eq!(region_of("arn:aws:kms:eu-west-3:111122223333:key/1234abcd"), Some("eu-west-3"));
    assert_eq!(region_of("arn:aws-cn:kms:cn-north-1:111122223333:alias/sender"), Some("cn-north-1"));
    for id in
        ["", "alias/sender", "1234abcd-12ab-34cd-56ef-1234567890ab", "arn:aws:s3:eu-west-3:1:key/1", "arn:aws:kms::1:k"]
    {
        assert_eq!(region_of(id), None, "{id}");
    }
    assert_eq!(region(Some("eu-west-3"), "alias/sender"), Ok("eu-west-3".to_owned()));
    assert_eq!(region(None, "arn:aws:kms:eu-west-3:1:key/1"), Ok("eu-west-3".to_owned()));
    for (given, id) in
        [("us-east-1", "arn:aws:kms:eu-west-3:1:key/1"), ("eu-west-3.example.org/", "alias/a"), ("", "a")]
    {
        assert!(region(Some(given), id).is_err(), "{given}");
    }
    assert_eq!(endpoint_of("eu-west-3"), "https://kms.eu-west-3.amazonaws.com/");
    assert_eq!(endpoint_of("cn-north-1"), "https://kms.cn-north-1.amazonaws.com.cn/");
}

#[test]
fn what_aws_says_is_told_unless_it_repeats_the_request() {
    let sent = vec![
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLEEXAMPLE00/20261125/eu-west-3/kms/aws4_request, SignedHeaders=host, Signature=\
         5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
            .to_owned(),
        "FwoGZXIvYXdzEBYaDHN0YW5kLWluLXRva2Vu".to_owned(),
    ];
    let tell = |kind: &str, message: &str| {
        let body = json!({"__type": kind, "message": message}).to_string();
        refusal(400, body.as_bytes(), &sent).to_string()
    };
    let denied = tell("com.amazonaws.kms#AccessDeniedException", "User: arn:aws:iam::1:user/a is not authorized\nmore");
    let expected = "refuses with status 400, AccessDeniedException: User: arn:aws:iam::1:user/a is not authorized";
    assert_eq!(denied, expected);
    for echo in [
        "the key AKIDEXAMPLEEXAMPLE00 is unknown",
        "short\nx-amz-security-token:FwoGZXIvYXdzEBYaDHN0YW5kLWluLXRva2Vu",
        "not 5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
    ] {
        let told = tell("InvalidSignatureException", echo);
        assert_eq!(told, "refuses with status 400, InvalidSignatureException");
    }
    assert_eq!(refusal(502, b"<html>", &sent).to_string(), "refuses with status 502, an unnamed error");
}

#[test]
fn nothing_that_can_be_printed_shows_credentials() {
    let settings = Settings {
        key_id: "alias/sender".to_owned(),
        region: "eu-west-3".to_owned(),
        endpoint: Some("http://user:password-of-a-url@127.0.0.1:1/path-of-a-url".parse().unwrap()),
        credentials: Some(Credentials {
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: Secret::new("a-secret-access-key"),
            session_token: Some(Secret::new("a-session-token")),
        }),
        timeout: Duration::from_secs(1),
        concurrency: 1,
    };
    let mut shown = format!("{settings:?}");
    shown += &format!("{:?}", AwsKms::new(settings).unwrap());
    for secret in ["a-secret-access-key", "a-session-token", "password-of-a-url", "path-of-a-url"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}
