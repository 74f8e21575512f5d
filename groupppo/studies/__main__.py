"""python -m groupppo.studies NAME --PARAMETER VALUE ...: run one study by itself."""

import sys

from groupppo.errors import GroupPPOError
from groupppo.studies.shared.study import find_study, known_names, run_study


def main(arguments: list[str]) -> None:
    """Run the study that the first argument names with the parameters that the others give.

    Raises:
        BadInput: there is no such study, or a parameter is missing, unknown or out of range.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{__doc__}\n\nStudies: {', '.join(known_names())}; NAME --help lists the parameters of one.")
        return
    study = find_study(arguments[0])
    run_study(study, study.parse(arguments[1:]))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except GroupPPOError as error:
        sys.exit(str(error))
