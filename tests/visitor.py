"""Somebody who looks at a served example with a browser, as far as that is HTTP."""

import json
import re
from http.cookiejar import CookieJar
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, Request, build_opener


class Visitor:
    """A served example, and a browser's cookies for it."""

    def __init__(self, url, timeout=10):
        self.url = url
        self.opener = build_opener(HTTPCookieProcessor(CookieJar()))
        self._timeout = timeout

    def get(self, path, form=None):
        """Look at a page, or send a form: status and text."""
        return self._open(Request(self.url + path, urlencode(form).encode() if form else None))

    def call(self, method, path, value=None):
        """Call as a page's script does, with JSON: status, and the value that came back."""
        data = None if value is None else json.dumps(value).encode()
        named = {"Content-Type": "application/json"}
        status, text = self._open(Request(self.url + path, data, named, method=method))
        return status, json.loads(text)

    def send(self, page, action, **form):
        """Fill in the form of a page, with the token that protects it."""
        names = r'name="(csrf\w*)" value="([^"]+)"'
        token = dict(re.findall(names, self.get(page)[1]))
        return self.get(action, token | form)

    def extension(self):
        """What the page's element is told of the extension."""
        return self.call("GET", "/runner/extensions/demo.notes")

    def _open(self, request):
        request.add_header("Sec-Fetch-Site", "same-origin")
        try:
            with self.opener.open(request, timeout=self._timeout) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()
