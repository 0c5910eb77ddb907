"How the tests judge the end of a command."


def refused(told, prog):
    "Status 1, nothing on standard output, one line on standard error; returns it."
    status, out, err = told
    assert (
        status == 1
        and out == ""
        and err.count("\n") == 1
        and err.startswith(f"{prog}: ")
        and "Errno" not in err
        and "Traceback" not in err
    ), (status, out, err)
    return err
