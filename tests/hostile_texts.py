"""Texts that must never become markup, a control token or part of a program."""

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "{{7*7}}",
    "${7*7}",
    "line\u2028separators\u2029",
    "\u202eevil\u202c",
    "a\x00b",
    "half \ud800 character",
    "&lt;b&gt; & \"quotes\" 'too'",
]
