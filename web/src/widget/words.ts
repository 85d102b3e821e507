import type { Phase } from "../call";
import type { Problem, ProblemCode } from "../problems";

/** What the panel says in one language. Each pair is a title and what can be done about it. */
export interface Words {
  /** On the button; the agent's name may be empty. */
  open(agent: string): string;
  close: string;
  start: string;
  again: string;
  retry: string;
  greeting: string;
  microphone: string;
  caller: string;
  typed: string;
  agent: string;
  interrupted: string;
  transcript: string;
  callerLevel: string;
  agentLevel: string;
  mute: string;
  unmute: string;
  muted: string;
  unmuted: string;
  write: string;
  send: string;
  hangUp: string;
  inCall: string;
  ready: string;
  notConnected: string;
  phases: Record<Phase, string>;
  problems: Record<ProblemCode, readonly [title: string, advice: string]>;
}

const en: Words = {
  open: (agent) => `Talk to ${agent || "us"}`,
  close: "Close",
  start: "Start talking",
  again: "Call again",
  retry: "Try again",
  greeting: "Ask me anything, out loud. Interrupt whenever you like.",
  microphone: "The browser will ask for your microphone.",
  caller: "You",
  typed: "You, in writing",
  agent: "Agent",
  interrupted: "interrupted",
  transcript: "Transcript",
  callerLevel: "Your microphone",
  agentLevel: "The agent's voice",
  mute: "Mute your microphone",
  unmute: "Unmute your microphone",
  muted: "You are muted",
  unmuted: "You can be heard",
  write: "Or say it in writing",
  send: "Send",
  hangUp: "Hang up",
  inCall: "Call in progress",
  ready: "Ready when you are",
  notConnected: "Not connected",
  phases: {
    microphone: "Opening the microphone",
    connecting: "Connecting",
    reconnecting: "Connection lost, reconnecting",
    asleep: "Asleep until the wake word",
    listening: "Listening",
    thinking: "Thinking",
    speaking: "Speaking",
  },
  problems: {
    insecure: ["No microphone here", "Browsers give one to pages on https only."],
    "microphone-blocked": [
      "The microphone is blocked",
      "Allow it for this page beside the address, then try again.",
    ],
    "microphone-missing": ["No microphone found", "Plug one in or switch it on, then try again."],
    "microphone-busy": [
      "The microphone does not answer",
      "Another program may be using it. Close that one, then try again.",
    ],
    "microphone-failed": ["The microphone could not be opened", "Try again."],
    "sound-locked": ["The browser is holding back the sound", "Tap anywhere to hear the agent."],
    unreachable: ["The agent cannot be reached", "Check your connection, then try again."],
    forbidden: [
      "This site may not call the agent",
      "Whoever runs the agent has to allow this site first.",
    ],
    busy: ["All lines are busy", "Try again in a moment."],
    refused: ["The agent took no call", "Try again later."],
    "no-answer": ["Nobody picked up", "A firewall may be holding back the call's audio."],
    lost: ["The connection was lost", "Check the network, then call again."],
    "not-sent": ["That was not sent", "Try again in a moment."],
    voice: ["The voice could not be changed", "Try again in a moment."],
    error: ["Something went wrong", "Try again in a moment."],
    goodbye: ["Goodbye", "The agent hung up."],
    hangup: ["Call ended", "You hung up."],
    "max-length": ["Time is up", "The call reached the longest that a call may be."],
    idle: ["Call ended", "It had been silent for a while."],
    shutdown: ["Call ended", "The agent is being restarted. Call again soon."],
    ended: ["Call ended", "The agent hung up."],
  },
};

const de: Words = {
  open: (agent) => (agent ? `Mit ${agent} sprechen` : "Mit uns sprechen"),
  close: "Schließen",
  start: "Gespräch beginnen",
  again: "Noch einmal anrufen",
  retry: "Noch einmal versuchen",
  greeting: "Fragen Sie einfach drauflos. Sie dürfen jederzeit ins Wort fallen.",
  microphone: "Der Browser wird nach Ihrem Mikrofon fragen.",
  caller: "Sie",
  typed: "Sie, schriftlich",
  agent: "Agent",
  interrupted: "unterbrochen",
  transcript: "Mitschrift",
  callerLevel: "Ihr Mikrofon",
  agentLevel: "Die Stimme des Agenten",
  mute: "Mikrofon stummschalten",
  unmute: "Mikrofon einschalten",
  muted: "Sie sind stummgeschaltet",
  unmuted: "Sie sind zu hören",
  write: "Oder schreiben Sie es",
  send: "Senden",
  hangUp: "Auflegen",
  inCall: "Gespräch läuft",
  ready: "Bereit, wenn Sie es sind",
  notConnected: "Nicht verbunden",
  phases: {
    microphone: "Mikrofon wird geöffnet",
    connecting: "Verbindung wird aufgebaut",
    reconnecting: "Verbindung verloren, neuer Versuch",
    asleep: "Schläft bis zum Weckwort",
    listening: "Hört zu",
    thinking: "Denkt nach",
    speaking: "Spricht",
  },
  problems: {
    insecure: ["Kein Mikrofon auf dieser Seite", "Browser geben es nur Seiten mit https."],
    "microphone-blocked": [
      "Das Mikrofon ist gesperrt",
      "Erlauben Sie es neben der Adresse und versuchen Sie es noch einmal.",
    ],
    "microphone-missing": [
      "Kein Mikrofon gefunden",
      "Schließen Sie eines an und versuchen Sie es noch einmal.",
    ],
    "microphone-busy": [
      "Das Mikrofon antwortet nicht",
      "Vielleicht nutzt es ein anderes Programm. Schließen Sie das und versuchen Sie es noch einmal.",
    ],
    "microphone-failed": [
      "Das Mikrofon ließ sich nicht öffnen",
      "Versuchen Sie es noch einmal.",
    ],
    "sound-locked": ["Der Browser hält den Ton zurück", "Tippen Sie irgendwo auf die Seite."],
    unreachable: [
      "Der Agent ist nicht zu erreichen",
      "Prüfen Sie die Verbindung und versuchen Sie es noch einmal.",
    ],
    forbidden: [
      "Diese Seite darf den Agenten nicht anrufen",
      "Wer ihn betreibt, muss sie erst zulassen.",
    ],
    busy: ["Alle Leitungen sind besetzt", "Versuchen Sie es gleich noch einmal."],
    refused: ["Der Agent nahm den Anruf nicht an", "Versuchen Sie es später noch einmal."],
    "no-answer": ["Niemand nahm ab", "Vielleicht hält eine Firewall den Ton des Anrufs auf."],
    lost: ["Die Verbindung ging verloren", "Prüfen Sie das Netz und rufen Sie noch einmal an."],
    "not-sent": ["Das wurde nicht gesendet", "Versuchen Sie es gleich noch einmal."],
    voice: ["Die Stimme blieb, wie sie war", "Versuchen Sie es gleich noch einmal."],
    error: ["Etwas ging schief", "Versuchen Sie es gleich noch einmal."],
    goodbye: ["Auf Wiederhören", "Der Agent hat aufgelegt."],
    hangup: ["Gespräch beendet", "Sie haben aufgelegt."],
    "max-length": ["Die Zeit ist um", "Das Gespräch hat die längste erlaubte Dauer erreicht."],
    idle: ["Gespräch beendet", "Es war eine Weile still."],
    shutdown: ["Gespräch beendet", "Der Agent wird neu gestartet. Rufen Sie bald wieder an."],
    ended: ["Gespräch beendet", "Der Agent hat aufgelegt."],
  },
};

const fr: Words = {
  open: (agent) => (agent ? `Parler à ${agent}` : "Nous parler"),
  close: "Fermer",
  start: "Commencer à parler",
  again: "Rappeler",
  retry: "Réessayer",
  greeting: "Posez votre question à voix haute. Vous pouvez couper la parole à tout moment.",
  microphone: "Le navigateur demandera l’accès à votre micro.",
  caller: "Vous",
  typed: "Vous, par écrit",
  agent: "Agent",
  interrupted: "interrompu",
  transcript: "Transcription",
  callerLevel: "Votre micro",
  agentLevel: "La voix de l’agent",
  mute: "Couper le micro",
  unmute: "Rétablir le micro",
  muted: "Votre micro est coupé",
  unmuted: "On vous entend",
  write: "Ou écrivez-le",
  send: "Envoyer",
  hangUp: "Raccrocher",
  inCall: "Appel en cours",
  ready: "Quand vous voulez",
  notConnected: "Pas connecté",
  phases: {
    microphone: "Ouverture du micro",
    connecting: "Connexion",
    reconnecting: "Connexion perdue, nouvel essai",
    asleep: "En veille, dites le mot de réveil",
    listening: "Écoute",
    thinking: "Réfléchit",
    speaking: "Parle",
  },
  problems: {
    insecure: ["Pas de micro ici", "Les navigateurs ne le donnent qu’aux pages en https."],
    "microphone-blocked": [
      "Le micro est bloqué",
      "Autorisez-le à côté de l’adresse, puis réessayez.",
    ],
    "microphone-missing": ["Aucun micro trouvé", "Branchez-en un, puis réessayez."],
    "microphone-busy": [
      "Le micro ne répond pas",
      "Un autre programme l’utilise peut-être. Fermez-le, puis réessayez.",
    ],
    "microphone-failed": ["Le micro n’a pas pu être ouvert", "Réessayez."],
    "sound-locked": ["Le navigateur retient le son", "Touchez la page pour entendre l’agent."],
    unreachable: ["L’agent est injoignable", "Vérifiez votre connexion, puis réessayez."],
    forbidden: [
      "Ce site n’a pas le droit d’appeler l’agent",
      "La personne qui gère l’agent doit d’abord l’autoriser.",
    ],
    busy: ["Toutes les lignes sont occupées", "Réessayez dans un instant."],
    refused: ["L’agent n’a pas pris l’appel", "Réessayez plus tard."],
    "no-answer": ["Personne n’a décroché", "Un pare-feu retient peut-être le son de l’appel."],
    lost: ["La connexion a été perdue", "Vérifiez le réseau, puis rappelez."],
    "not-sent": ["Message non envoyé", "Réessayez dans un instant."],
    voice: ["La voix n’a pas pu être changée", "Réessayez dans un instant."],
    error: ["Un problème est survenu", "Réessayez dans un instant."],
    goodbye: ["Au revoir", "L’agent a raccroché."],
    hangup: ["Appel terminé", "Vous avez raccroché."],
    "max-length": ["Le temps est écoulé", "L’appel a atteint la durée maximale."],
    idle: ["Appel terminé", "Il y avait un long silence."],
    shutdown: ["Appel terminé", "L’agent redémarre. Rappelez bientôt."],
    ended: ["Appel terminé", "L’agent a raccroché."],
  },
};

const es: Words = {
  open: (agent) => (agent ? `Hablar con ${agent}` : "Hablar con nosotros"),
  close: "Cerrar",
  start: "Empezar a hablar",
  again: "Volver a llamar",
  retry: "Volver a intentarlo",
  greeting: "Pregunte lo que quiera, en voz alta. Puede interrumpir cuando quiera.",
  microphone: "El navegador le pedirá el micrófono.",
  caller: "Usted",
  typed: "Usted, por escrito",
  agent: "Agente",
  interrupted: "interrumpido",
  transcript: "Transcripción",
  callerLevel: "Su micrófono",
  agentLevel: "La voz del agente",
  mute: "Silenciar el micrófono",
  unmute: "Activar el micrófono",
  muted: "Su micrófono está silenciado",
  unmuted: "Se le oye",
  write: "O dígalo por escrito",
  send: "Enviar",
  hangUp: "Colgar",
  inCall: "Llamada en curso",
  ready: "Cuando quiera",
  notConnected: "Sin conexión",
  phases: {
    microphone: "Abriendo el micrófono",
    connecting: "Conectando",
    reconnecting: "Conexión perdida, reconectando",
    asleep: "En reposo hasta la palabra clave",
    listening: "Escucha",
    thinking: "Piensa",
    speaking: "Habla",
  },
  problems: {
    insecure: ["Aquí no hay micrófono", "Los navegadores solo lo dan a páginas con https."],
    "microphone-blocked": [
      "El micrófono está bloqueado",
      "Permítalo junto a la dirección y vuelva a intentarlo.",
    ],
    "microphone-missing": [
      "No se encontró ningún micrófono",
      "Conecte uno y vuelva a intentarlo.",
    ],
    "microphone-busy": [
      "El micrófono no responde",
      "Quizá lo use otro programa. Ciérrelo y vuelva a intentarlo.",
    ],
    "microphone-failed": ["No se pudo abrir el micrófono", "Vuelva a intentarlo."],
    "sound-locked": ["El navegador retiene el sonido", "Toque la página para oír al agente."],
    unreachable: ["No se puede contactar con el agente", "Revise su conexión y reinténtelo."],
    forbidden: [
      "Este sitio no puede llamar al agente",
      "Quien lo gestiona tiene que permitirlo primero.",
    ],
    busy: ["Todas las líneas están ocupadas", "Vuelva a intentarlo en un momento."],
    refused: ["El agente no aceptó la llamada", "Vuelva a intentarlo más tarde."],
    "no-answer": ["Nadie contestó", "Quizá un cortafuegos retenga el audio de la llamada."],
    lost: ["Se perdió la conexión", "Revise la red y vuelva a llamar."],
    "not-sent": ["No se envió", "Vuelva a intentarlo en un momento."],
    voice: ["No se pudo cambiar la voz", "Vuelva a intentarlo en un momento."],
    error: ["Algo salió mal", "Vuelva a intentarlo en un momento."],
    goodbye: ["Adiós", "El agente colgó."],
    hangup: ["Llamada terminada", "Usted colgó."],
    "max-length": ["Se acabó el tiempo", "La llamada alcanzó la duración máxima."],
    idle: ["Llamada terminada", "Hubo un largo silencio."],
    shutdown: ["Llamada terminada", "El agente se reinicia. Vuelva a llamar pronto."],
    ended: ["Llamada terminada", "El agente colgó."],
  },
};

/** The languages that the panel speaks. */
export const LANGUAGES: Readonly<Record<string, Words>> = { en, de, fr, es };

/** The language among those of the panel that a tag like `de-AT` asks for; English for others. */
export function languageOf(tag: string): string {
  const language = tag.toLowerCase().split("-")[0] ?? "";
  return Object.hasOwn(LANGUAGES, language) ? language : "en";
}

/** What the panel says in a language that {@link languageOf} gave. */
export function wordsOf(language: string): Words {
  return LANGUAGES[language] ?? en;
}

/** A problem in the panel's words: the site's visitors are not those who run the server. */
export function translate(problem: Problem, words: Words): Problem {
  const [title, advice] = words.problems[problem.code];
  return { code: problem.code, title, advice };
}
