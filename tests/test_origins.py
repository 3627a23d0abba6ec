import ipaddress

import pytest

from runnerwsgi.errors import ConfigurationError
from runnerwsgi.origins import inner_kind, narrow_egress, parse_egress_entry, parse_http_url


@pytest.mark.parametrize(
    ("text", "origin", "target"),
    [
        pytest.param("http://a.test", "http://a.test", "/", id="nothing but a host"),
        pytest.param("HTTPS://A.Test:443/X", "https://a.test", "/X", id="case and default port"),
        pytest.param("http://a.test:8080/x?y=1&z", "http://a.test:8080", "/x?y=1&z", id="a query"),
        pytest.param("http://a.test?q", "http://a.test", "/?q", id="a query without a path"),
        pytest.param("http://93.184.216.34/", "http://93.184.216.34", "/", id="IPv4"),
        pytest.param("http://[2606:2800:0:0::1]:8/", "http://[2606:2800::1]:8", "/", id="IPv6"),
        pytest.param(
            "http://xn--llowed-qta.test/%C3%A1",
            "http://xn--llowed-qta.test",
            "/%C3%A1",
            id="punycode and percent-encoding",
        ),
        pytest.param("http://a_b.test/", "http://a_b.test", "/", id="underscore"),
    ],
)
def test_a_url_is_read_in_one_way(text, origin, target):
    url = parse_http_url(text)
    assert (str(url.origin), url.target) == (origin, target)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.test",
        "//a.test/",
        "ftp://a.test/",
        "http:/a.test",
        "http:a.test",
        "http:///x",
        "http://",
        "http://:80/",
        "http://a.test:0/",
        "http://a.test:65536/",
        "http://a.test:/",
        "http://a.test:8 0/",
        "http://user@a.test/",
        "http://a:b@a.test/",
        "http://a.test#f",
        "http://a.test/#f",
        "http://a.test#@b.test/",
        "http://a.test\\@b.test/",
        "http://a.test\\b",
        "http://a.test/\\b",
        "http://a.test./",
        "http://.a.test/",
        "http://a..test/",
        "http://-a.test/",
        "http://a-.test/",
        "http://*.a.test/",
        "http://*/",
        "http://á.test/",
        "http://\uff41.test/",
        "http://a.test/á",
        "http://a.test/ x",
        " http://a.test/",
        "http://a.test/\n",
        "http://a.test/\r\nX: y",
        "http://a.test/\x00",
        "http://a.test/\t",
        "http://a%2etest/",
        "http://a.test/%",
        "http://a.test/%zz",
        "http://0/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.0.0.1/",
        "http://0177.0.0.1/",
        "http://127.0.0.1./",
        "http://1.2.3.4.5/",
        "http://a.0x/",
        "http://256.1.1.1/",
        "http://[::1",
        "http://[::1]x/",
        "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://[1.2.3.4]/",
        "http://[]/",
        "http://[:::]/",
        "http://" + "a" * 64 + ".test/",
        "http://" + "a." * 127 + "test/",
        "http://a.test/" + "x" * 9000,
        "http://a.test/<x>",
        'http://a.test/"',
        "http://a.test/{x}",
        "http://a.test/^",
        "http://a.test/`",
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(text):
    with pytest.raises(ValueError, match=r".") as refused:
        parse_http_url(text)
    assert str(refused.value)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("0.0.0.0", "this network"),
        ("0.1.2.3", "this network"),
        ("10.255.255.255", "private"),
        ("100.64.0.1", "shared by a carrier (CGNAT)"),
        ("100.127.255.255", "shared by a carrier (CGNAT)"),
        ("100.100.100.200", "shared by a carrier (CGNAT)"),
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("169.254.169.254", "link-local"),
        ("168.63.129.16", "a cloud's own service"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.0.0.192", "protocol assignments"),
        ("192.168.0.1", "private"),
        ("198.18.0.1", "benchmarking"),
        ("198.19.255.255", "benchmarking"),
        ("203.0.113.9", "documentation"),
        ("224.0.0.1", "multicast"),
        ("239.1.1.1", "multicast"),
        ("240.0.0.1", "reserved or broadcast"),
        ("255.255.255.255", "reserved or broadcast"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("::7f00:1", "not assigned"),
        ("::ffff:127.0.0.1", "IPv4 inside IPv6"),
        ("::ffff:93.184.216.34", "IPv4 inside IPv6"),
        ("64:ff9b::7f00:1", "NAT64"),
        ("64:ff9b:1::1", "local NAT64"),
        ("2001:0:1::1", "Teredo"),
        ("2001:20::1", "protocol assignments"),
        ("2001:db8::1", "documentation"),
        ("2002:7f00:1::", "6to4"),
        ("fc00::1", "private"),
        ("fd00:ec2::254", "private"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("fec0::1", "site-local"),
        ("ff02::1", "multicast"),
        ("100::1", "not assigned"),
        ("4000::1", "not assigned"),
        ("93.184.216.34", None),
        ("100.63.255.255", None),
        ("100.128.0.0", None),
        ("172.32.0.1", None),
        ("9.9.9.9", None),
        ("2606:2800:220:1::1", None),
        ("2a00:1450::1", None),
    ],
)
def test_inner_addresses_are_told_from_public_ones(address, kind):
    assert inner_kind(ipaddress.ip_address(address)) == kind


@pytest.mark.parametrize(
    ("entry", "url", "allowed"),
    [
        pytest.param("https://a.test", "https://a.test/x", True, id="the same origin"),
        pytest.param("https://A.test:443/", "https://a.test/x", True, id="its default port named"),
        pytest.param("https://a.test", "https://a.test:443/", True, id="default port in the URL"),
        pytest.param("https://a.test", "http://a.test/", False, id="another scheme"),
        pytest.param("http://a.test", "http://a.test:443/", False, id="another port"),
        pytest.param("https://a.test:8443", "https://a.test/", False, id="a port that is missing"),
        pytest.param("https://a.test", "https://b.a.test/", False, id="a subdomain nobody named"),
        pytest.param("https://a.test", "https://evila.test/", False, id="a name that ends alike"),
        pytest.param(
            "https://a.test", "https://a.test.evil.test/", False, id="a name that begins alike"
        ),
        pytest.param("https://*.a.test", "https://b.a.test/", True, id="a subdomain"),
        pytest.param("https://*.a.test", "https://c.b.a.test/", True, id="a deeper subdomain"),
        pytest.param("https://*.a.test", "https://a.test/", False, id="the name itself"),
        pytest.param("https://*.a.test", "https://evila.test/", False, id="no dot in between"),
        pytest.param("https://*.a.test:8443", "https://b.a.test:8443/", True, id="subdomain, port"),
        pytest.param(
            "http://[2606:2800:0::1]", "http://[2606:2800::1]/", True, id="IPv6 in two spellings"
        ),
        pytest.param(
            "http://127.0.0.1:9000", "http://127.0.0.1:9000/", True, id="a loopback address"
        ),
    ],
)
def test_an_entry_allows_exactly_what_it_says(entry, url, allowed):
    assert parse_egress_entry(entry).allows(parse_http_url(url).origin) is allowed


@pytest.mark.parametrize(
    "entry",
    [
        "*",
        "",
        "a.test",
        "https://*",
        "https://*.test",
        "https://*.*.test",
        "https://a.*.test",
        "https://*a.test",
        "*://a.test",
        "https://a.test/path",
        "https://a.test?x",
        "https://a.test:*",
        "https://a.test:99999",
        "https://user@a.test",
        "https://*.127.0.0.1",
        "ftp://a.test",
        "http://169.254.169.254",
        "http://0.0.0.0",
        "http://[::ffff:127.0.0.1]",
        "http://224.0.0.1",
        "http://[fe80::1]",
        "http://127.1",
        "https://a.test, https://b.test",
        "https://á.test",
    ],
)
def test_what_is_no_entry_is_a_configuration_error(entry):
    with pytest.raises(ConfigurationError, match="is not an egress entry"):
        parse_egress_entry(entry)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("https://A.Test:443/", "https://a.test"),
        ("http://*.a.test:80", "http://*.a.test"),
        ("http://[::1]:9000", "http://[::1]:9000"),
    ],
)
def test_an_entry_is_written_in_one_way(entry, text):
    assert str(parse_egress_entry(entry)) == text


@pytest.mark.parametrize(
    ("entries", "bound", "both"),
    [
        pytest.param(["https://a.test"], [], [], id="nothing is allowed"),
        pytest.param([], ["https://a.test"], [], id="nothing is granted"),
        pytest.param(["https://a.test"], ["https://a.test:443"], ["https://a.test"], id="the same"),
        pytest.param(["https://a.test"], ["http://a.test"], [], id="another scheme"),
        pytest.param(["https://a.test:8443"], ["https://a.test"], [], id="another port"),
        pytest.param(
            ["https://x.a.test"], ["https://*.a.test"], ["https://x.a.test"], id="below a star"
        ),
        pytest.param(
            ["https://*.a.test"], ["https://x.a.test"], ["https://x.a.test"], id="a star above"
        ),
        pytest.param(["https://*.a.test"], ["https://a.test"], [], id="a star is not its name"),
        pytest.param(["https://*.a.test"], ["https://*.a.test"], ["https://*.a.test"], id="stars"),
        pytest.param(
            ["https://*.a.test"], ["https://*.b.a.test"], ["https://*.b.a.test"], id="a lower star"
        ),
        pytest.param(["https://*.a.test"], ["https://*.xa.test"], [], id="stars of other names"),
        pytest.param(
            ["https://x.a.test", "https://b.test", "https://c.test"],
            ["https://*.a.test", "https://x.a.test", "https://b.test"],
            ["https://x.a.test", "https://b.test"],
            id="each once",
        ),
    ],
)
def test_what_two_lists_allow(entries, bound, both):
    assert narrow_egress(tuple(entries), tuple(bound)) == tuple(both)
    assert set(narrow_egress(tuple(bound), tuple(entries))) == set(both)
