"""Source files in other languages → the commands that run them; a test is skipped where there is no compiler."""

import shutil
import subprocess
from pathlib import Path

import pytest


def found(name: str) -> str:
    """Where the program of that name is."""
    path = shutil.which(name) or shutil.which(name, path=str(Path.home() / ".cargo" / "bin"))
    return path or pytest.skip(f"there is no {name}")


def cpp(source: Path) -> list[str]:
    program = source.with_suffix(".out")
    subprocess.run([found("g++"), "-std=c++17", "-Wall", "-Wextra", "-Werror", "-o", program, source], check=True)
    return [str(program)]


def rust(source: Path) -> list[str]:
    program = source.with_suffix(".out")
    subprocess.run([found("rustc"), "-D", "warnings", "-o", program, source], check=True)
    return [str(program)]


def csharp(source: Path) -> list[str]:
    if shutil.which("mcs") and not shutil.which("dotnet"):
        program = source.with_suffix(".exe")
        command = ["mcs", "-langversion:latest", "-r:System.Net.Http", f"-out:{program}", source]
        subprocess.run(command, check=True)
        return [found("mono"), str(program)]
    dotnet = found("dotnet")
    version = subprocess.run([dotnet, "--version"], capture_output=True, text=True, check=True).stdout
    target = f"<TargetFramework>net{version.split('.')[0]}.0</TargetFramework>"
    properties = f"<PropertyGroup><OutputType>Exe</OutputType>{target}</PropertyGroup>"
    source.with_suffix(".csproj").write_text(f'<Project Sdk="Microsoft.NET.Sdk">{properties}</Project>')
    return [dotnet, "run", "--project", str(source.parent), "--"]
