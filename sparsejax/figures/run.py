def write_figures(folder, result, variables):
    return []
