"""`python -m k15.sandbox.images {build,list,path} [NAME ...]`: the root filesystems of the code sandbox."""

import argparse
import sys

from k15.errors import K15Error
from k15.sandbox.images.build import build
from k15.sandbox.images.recipes import RECIPES
from k15.sandbox.images.store import Images, image_path


def main(words: list[str] | None = None) -> int:
    """The exit code: 0, or 1 with the error on stderr."""
    parser = argparse.ArgumentParser(prog="python -m k15.sandbox.images", description=__doc__)
    parser.add_argument("action", choices=("build", "list", "path"))
    parser.add_argument("names", nargs="*", help=f"images; default base. Known: {', '.join(RECIPES)}")
    parser.add_argument("--again", action="store_true", help="build anew what is there already")
    args = parser.parse_args(words)
    names = args.names or ["base"]
    try:
        if args.action == "build":
            build(names, say=lambda line: print(line, flush=True), again=args.again)
        elif args.action == "path":
            print(*(Images().rootfs(name) for name in names), sep="\n")
        else:
            for name, recipe in RECIPES.items():
                print(f"{name:8s} {'built' if image_path(name).is_dir() else '-':6s} {recipe.about}")
    except K15Error as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
