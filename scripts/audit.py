#!/usr/bin/env python3
"""Dependency audit without the network: every package comes from crates.io with a checksum, has
a licence that deny.toml allows, and is named by an exact version in Cargo.lock. Known advisories
are for `cargo deny check`, which needs the network;
the exceptions granted there are printed here. Exits 1 on the first kind of finding."""

import json
import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent


def allowed(expression: str, licences: set[str]) -> bool:
    """Does an SPDX expression (OR, AND, WITH, parentheses, old slashes) allow a licence?"""
    words = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))
    position = 0

    def either() -> bool:
        nonlocal position
        result = both()
        while position < len(words) and words[position] == "OR":
            position += 1
            result = both() or result
        return result

    def both() -> bool:
        nonlocal position
        result = one()
        while position < len(words) and words[position] == "AND":
            position += 1
            result = one() and result
        return result

    def one() -> bool:
        nonlocal position
        word = words[position]
        position += 1
        if word == "(":
            result = either()
            position += 1
            return result
        if position < len(words) and words[position] == "WITH":
            word = f"{word} WITH {words[position + 1]}"
            position += 2
        return word in licences

    return either()


def main() -> int:
    rules = tomllib.loads((ROOT / "deny.toml").read_text())
    licences = set(rules["licenses"]["allow"])
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    checksums = {(p["name"], p["version"]): p.get("checksum") for p in lock["package"]}
    findings = []
    packages = [p for p in metadata["packages"] if p["source"]]
    for package in packages:
        name = f"{package['name']} {package['version']}"
        if "crates.io" not in package["source"]:
            findings.append(f"{name}: comes from {package['source']}")
        if not checksums.get((package["name"], package["version"])):
            findings.append(f"{name}: has no checksum in Cargo.lock")
        if not package["license"] or not allowed(package["license"], licences):
            findings.append(f"{name}: licence {package['license']} is not allowed by deny.toml")
    for finding in findings:
        print(finding)
    for exception in rules["advisories"]["ignore"]:
        print(f"exception: {exception['id']}: {exception['reason']}")
    print(f"audit: {len(packages)} packages, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
