"""The script with which bash and zsh complete `cnn_jax`. It holds all words: no completion starts Python."""

from collections.abc import Mapping, Sequence

from cnn_jax.config import recipes

# In bash `--config=res` is three words, of which the second is "=".
SCRIPT = """\
_cnn_jax() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" flag="" words=""
  [[ $current == "=" ]] && current="" && flag="${{COMP_WORDS[COMP_CWORD-1]}}"
  [[ ${{COMP_WORDS[COMP_CWORD-1]}} == "=" ]] && flag="${{COMP_WORDS[COMP_CWORD-2]}}"
  if [[ -n $flag ]]; then
    [[ $flag == --config ]] && words="{recipes}"
  elif ((COMP_CWORD == 1)); then
    words="{commands}"
  else
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  [[ ${{COMPREPLY[0]-}} == *= ]] && compopt -o nospace 2>/dev/null
}}
complete -o default -F _cnn_jax cnn_jax"""


def script(shell: str, flags: Mapping[str, Sequence[str]]) -> str:
    """Returns the script for "bash" or "zsh", whose `bashcompinit` takes that of bash.

    Args:
      flags: of each command, such as --json and --seconds=.
    """
    cases = [f'      {command}) words="{" ".join(words)}" ;;' for command, words in flags.items()]
    commands, names = " ".join([*flags, "--help", "--version"]), " ".join(recipes.names())
    text = SCRIPT.format(recipes=names, commands=commands, cases="\n".join(cases))
    return f"autoload -U +X bashcompinit && bashcompinit\n{text}" if shell == "zsh" else text
